// The scale room's launchers.
#include "scale/scale.h"

#include "driver/entry.h"
#include "entries/memory.h"

using namespace emulator;
using namespace halfops;

namespace {

// The list "tensor" with their "dtype", as the kernels read it.
struct List {
    std::vector<scale::Span> spans;
    ChunkTable sizes;
    DeviceMemory words, addresses, workspace;

    explicit List(const Arguments& arguments)
        : spans(spans_of(arguments)),
          words(scale::span_words(spans.data(), count(), &sizes)),
          addresses(scale::span_addresses(spans.data(), count())),
          workspace(scale::cuda::workspace_bytes(sizes)) {}

    int64_t count() const { return static_cast<int64_t>(spans.size()); }
    scale::SpanTable table() const { return scale::span_table_at(addresses.words(), words.words(), sizes); }

    static std::vector<scale::Span> spans_of(const Arguments& arguments) {
        const std::vector<Array> tensors = arguments.list("tensor");
        const auto* dtypes = arguments["dtype"].as<int32_t>();
        std::vector<scale::Span> spans;
        for (size_t i = 0; i < tensors.size(); ++i) {
            const auto dtype = static_cast<DType>(dtypes[i]);
            spans.push_back({tensors[i].data, tensors[i].bytes / bytes_of(dtype), dtype});
        }
        return spans;
    }
};

scale::StatsOut stats_of(const Arguments& arguments) {
    return {arguments["found_inf"].as<float>(), arguments["sum_of_squares"].as<double>(),
            arguments["per_tensor"].as<double>()};
}

const Entry nonfinite("nonfinite", [](const Arguments& arguments) {
    const List list(arguments);
    check(scale::cuda::nonfinite_check(list.table(), nullptr, arguments["found_inf"].as<float>()));
});

const Entry grad_stats("grad_stats", [](const Arguments& arguments) {
    const List list(arguments);
    check(scale::cuda::grad_stats(list.table(), arguments.value<int8_t>("count_zeros") != 0, list.workspace.get(),
                                  nullptr, stats_of(arguments)));
});

const Entry unscale("unscale", [](const Arguments& arguments) {
    const List list(arguments);
    check(scale::cuda::unscale(list.table(), arguments["inv_scale"].as<float>(),
                               arguments.value<int8_t>("count_zeros") != 0, list.workspace.get(), nullptr,
                               stats_of(arguments)));
});

const Entry scale_update("scale_update", [](const Arguments& arguments) {
    const LossScalePolicy policy = {
        arguments.value<double>("growth_factor"),    arguments.value<double>("backoff_factor"),
        arguments.value<int32_t>("growth_interval"), arguments.value<int32_t>("hysteresis"),
        arguments.value<float>("min_scale"),         arguments.value<float>("max_scale")};
    const scale::LossScalePointers state = {arguments["scale"].as<float>(), arguments["growth_tracker"].as<int32_t>(),
                                            arguments["hysteresis_tracker"].as<int32_t>(),
                                            arguments["skipped_steps"].as<int64_t>()};
    check(scale::cuda::scale_update(state, arguments["found_inf"].as<float>(), policy, nullptr));
});

}  // namespace
