// kernels/exchange.cuh: threads that pass values through shared memory.
#include "kernels/exchange.cuh"

#include "collective/launch.cuh"
#include "driver/entry.h"

using namespace emulator;

namespace {

constexpr int kThreads = 96;

const Entry neighbour("neighbour", [](const Arguments& arguments) {
    halfops::launch<kernels::neighbour_kernel<kThreads>>(
        halfops::Grid{1, kThreads}, nullptr, arguments["in"].as<const float>(), arguments["out"].as<float>());
});

const Entry backwards("backwards", [](const Arguments& arguments) {
    const auto threads = static_cast<unsigned>(arguments["in"].count<float>());
    halfops::launch<kernels::backwards_kernel>(halfops::Grid{1, threads, threads * 4}, nullptr,
                                               arguments["in"].as<const float>(), arguments["out"].as<float>());
});

const Entry row_sums("row_sums", [](const Arguments& arguments) {
    const Array in = arguments["in"];
    halfops::launch<kernels::row_sums_kernel<kThreads>>(halfops::Grid{1, kThreads}, nullptr, in.as<const float>(),
                                                        static_cast<int>(in.count<float>()),
                                                        arguments["out"].as<float>());
});

const Entry streamed_sums("streamed_sums", [](const Arguments& arguments) {
    const Array in = arguments["in"];
    halfops::launch<kernels::streamed_sums_kernel<kThreads>>(halfops::Grid{1, kThreads}, nullptr, in.as<const float4>(),
                                                             static_cast<int>(in.count<float4>() / kThreads),
                                                             arguments["out"].as<float4>());
});

const Entry matrices("matrices", [](const Arguments& arguments) {
    halfops::launch<kernels::matrices_kernel>(halfops::Grid{1, 32}, nullptr, arguments["in"].as<const uint4>(),
                                              arguments["out"].as<uint32_t>());
});

const Entry handover("handover", [](const Arguments& arguments) {
    const Array in = arguments["in"];
    halfops::launch<kernels::handover_kernel>(halfops::Grid{1, 64}, nullptr, in.as<const float>(),
                                              static_cast<int>(in.count<float>() / 32), arguments["out"].as<float>());
});

}  // namespace
