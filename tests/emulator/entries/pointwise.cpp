// The pointwise room's launchers.
#include "pointwise/pointwise.h"

#include "collective/column_sums.cuh"
#include "driver/entry.h"
#include "entries/memory.h"

using namespace emulator;
using namespace halfops;

namespace {

// The arrays of one call, all of one dtype and size.
struct Elements {
    const Arguments& arguments;
    Activation activation = static_cast<Activation>(arguments.value<int32_t>("activation"));
    DType dtype = static_cast<DType>(arguments.value<int32_t>("dtype"));

    void* operator[](const char* name) const { return arguments[name].data; }
    int64_t count(const char* name) const { return arguments[name].bytes / bytes_of(dtype); }
};

const Entry activate("activate", [](const Arguments& arguments) {
    const Elements e{arguments};
    check(pointwise::cuda::activate(e.activation, e.dtype, e["z"], e.count("z"), nullptr, e["y"]));
});

const Entry activate_backward("activate_backward", [](const Arguments& arguments) {
    const Elements e{arguments};
    check(pointwise::cuda::activate_backward(e.activation, e.dtype, e["dy"], e["z"], e.count("z"), nullptr, e["dz"]));
});

const Entry gate("gate", [](const Arguments& arguments) {
    const Elements e{arguments};
    check(pointwise::cuda::gate(e.activation, e.dtype, e["gate"], e["up"], e.count("gate"), nullptr, e["h"]));
});

const Entry gate_backward("gate_backward", [](const Arguments& arguments) {
    const Elements e{arguments};
    check(pointwise::cuda::gate_backward(e.activation, e.dtype, e["dh"], e["gate"], e["up"], e.count("gate"), nullptr,
                                         e["d_gate"], e["d_up"]));
});

const Entry column_sums("column_sums", [](const Arguments& arguments) {
    const auto rows = arguments.value<int64_t>("rows"), cols = arguments.value<int64_t>("cols");
    const DeviceMemory workspace(pointwise::cuda::column_sums_workspace_bytes(rows, cols));
    check(pointwise::cuda::column_sums(static_cast<DType>(arguments.value<int32_t>("dtype")), arguments["x"].data, rows,
                                       cols, arguments.value<int64_t>("row_stride"), workspace.get(), nullptr,
                                       arguments["sums"].data));
});

// The second pass alone, from partial sums of either kind.
template <class Partial>
void add(const Arguments& arguments) {
    const auto rows = arguments.value<int64_t>("rows"), cols = arguments.value<int64_t>("cols");
    check(status_of(
        add_columns(arguments["partial"].as<const Partial>(), rows, cols, arguments["sums"].as<float>(), nullptr)));
}

const Entry add_floats("add_floats", [](const Arguments& arguments) { add<float>(arguments); });
const Entry add_doubles("add_doubles", [](const Arguments& arguments) { add<double>(arguments); });

}  // namespace
