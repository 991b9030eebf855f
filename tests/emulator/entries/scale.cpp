// The scale room's launchers.
#include "scale/scale.h"

#include "driver/entry.h"
#include "math/loss_scale.h"

using namespace emulator;

namespace {

// What a launcher gives back: a status and, if it is not 0, a text.
void check(int status, const char* message) {
    if (status != 0) refuse_call(message, "the launcher");
}

std::vector<halfops::scale::Span> spans_of(const Arguments& arguments) {
    const std::vector<Array> tensors = arguments.list("tensor");
    const int32_t* dtypes = arguments["dtype"].as<int32_t>();
    std::vector<halfops::scale::Span> spans;
    for (size_t i = 0; i < tensors.size(); ++i) {
        const auto dtype = static_cast<halfops::DType>(dtypes[i]);
        const int64_t size = dtype == halfops::DType::f32 ? 4 : 2;
        spans.push_back({tensors[i].data, tensors[i].bytes / size, dtype});
    }
    return spans;
}

const Entry nonfinite("nonfinite", [](const Arguments& arguments) {
    const std::vector<halfops::scale::Span> spans = spans_of(arguments);
    int64_t numel = 0;
    for (const halfops::scale::Span& span : spans) numel += span.numel;
    const char* message = nullptr;
    check(halfops::scale::cuda::nonfinite_check(spans.data(), static_cast<int64_t>(spans.size()), numel, nullptr,
                                                arguments["found_inf"].as<float>(), &message),
          message);
});

}  // namespace
