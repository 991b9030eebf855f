// kernels/momentum.cuh: a small optimizer step.
#include "kernels/momentum.cuh"
#include "collective/launch.cuh"
#include "driver/entry.h"

using namespace emulator;

namespace {

constexpr int kThreads = 128;

const Entry momentum("momentum", [](const Arguments& arguments) {
    const Array parameters = arguments["parameters"];
    const kernels::Momentum rule{arguments.value<float>("learning_rate"), arguments.value<float>("decay")};
    halfops::launch<kernels::momentum_kernel<kThreads>>(
        halfops::Grid{2, kThreads}, nullptr, parameters.as<halfops::bf16>(),
        arguments["gradients"].as<const halfops::bf16>(), arguments["moments"].as<float>(),
        parameters.count<halfops::bf16>(), rule, arguments["sums"].as<float>());
});

}  // namespace
