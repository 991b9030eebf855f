// Kernels that show one rule of CUDA each, and the mistakes.
#include <string_view>

#include "collective/launch.cuh"
#include "driver/entry.h"
#include "kernels/copies.cuh"
#include "kernels/counters.cuh"
#include "kernels/lanes.cuh"
#include "kernels/mistakes.cuh"

using namespace emulator;
using halfops::Grid;

namespace {

unsigned threads_of(const Arguments& arguments) { return arguments.value<uint32_t>("threads"); }

template <class T>
void shuffles(const Arguments& arguments) {
    halfops::launch<kernels::shuffles_kernel<T>>(Grid{1, 32}, nullptr, arguments["in"].as<const T>(),
                                                 arguments.value<int32_t>("lane"), arguments.value<int32_t>("width"),
                                                 arguments["out"].as<T>());
}

const Entry shuffles_of_floats("shuffles_float32", shuffles<float>);
const Entry shuffles_of_doubles("shuffles_float64", shuffles<double>);

const Entry votes("votes", [](const Arguments& arguments) {
    halfops::launch<kernels::votes_kernel>(Grid{1, threads_of(arguments)}, nullptr, arguments["in"].as<const int>(),
                                           arguments["out"].as<uint32_t>());
});

const Entry half_votes("half_votes", [](const Arguments& arguments) {
    halfops::launch<kernels::half_votes_kernel>(Grid{1, threads_of(arguments)}, nullptr,
                                                arguments["in"].as<const int>(), arguments["out"].as<uint32_t>());
});

const Entry block_votes("block_votes", [](const Arguments& arguments) {
    halfops::launch<kernels::block_votes_kernel>(Grid{1, threads_of(arguments)}, nullptr,
                                                 arguments["in"].as<const int>(), arguments["out"].as<int>());
});

const Entry counters("counters", [](const Arguments& arguments) {
    halfops::launch<kernels::counters_kernel>(Grid{3, threads_of(arguments)}, nullptr,
                                              arguments["counters"].as<kernels::Counters>(),
                                              arguments["tickets"].as<unsigned>());
});

const Entry last_block("last_block", [](const Arguments& arguments) {
    const Array in = arguments["in"];
    halfops::launch<kernels::last_block_kernel>(Grid{static_cast<unsigned>(in.count<float>()), 1}, nullptr,
                                                in.as<const float>(), arguments["partial"].as<float>(),
                                                arguments["arrived"].as<unsigned>(), arguments["out"].as<float>());
});

const Entry turns("turns", [](const Arguments& arguments) {
    halfops::launch<kernels::turns_kernel>(Grid{1, threads_of(arguments)}, nullptr, arguments["turn"].as<unsigned>(),
                                           arguments["out"].as<unsigned>());
});

const Entry early("early", [](const Arguments& arguments) {
    const Array in = arguments["in"];
    halfops::launch<kernels::early_kernel>(Grid{1, static_cast<unsigned>(in.count<uint4>())}, nullptr,
                                           in.as<const uint4>(), arguments.value<int32_t>("barriers"),
                                           arguments["out"].as<uint4>());
});

// What the runtime says when the kernel asks for `limit` bytes, how many blocks then fit, and what the launch says.
const Entry stride("stride", [](const Arguments& arguments) {
    constexpr unsigned kThreads = 32;
    const int32_t stride = arguments.value<int32_t>("stride");
    const unsigned bytes = kThreads * static_cast<unsigned>(stride * static_cast<int>(sizeof(uint4)));
    int32_t* said = arguments["said"].as<int32_t>();
    said[0] = static_cast<int32_t>(cudaFuncSetAttribute(
        kernels::stride_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, arguments.value<int32_t>("limit")));
    int blocks = -1;
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernels::stride_kernel, kThreads, bytes);
    said[1] = blocks;
    said[2] = static_cast<int32_t>(halfops::launch<kernels::stride_kernel>(
        Grid{1, kThreads, bytes}, nullptr, arguments["in"].as<const uint4>(), stride, arguments["out"].as<uint4>()));
});

// Of the device: the numbers that a launcher asks for.
const Entry device("device", [](const Arguments& arguments) {
    constexpr cudaDeviceAttr kAttributes[] = {
        cudaDevAttrComputeCapabilityMajor,           cudaDevAttrComputeCapabilityMinor,
        cudaDevAttrMaxSharedMemoryPerBlock,          cudaDevAttrMaxSharedMemoryPerBlockOptin,
        cudaDevAttrMaxSharedMemoryPerMultiprocessor, cudaDevAttrMultiProcessorCount,
    };
    int* found = arguments["found"].as<int>();
    for (const cudaDeviceAttr attribute : kAttributes) cudaDeviceGetAttribute(found++, attribute, 0);
});

const Entry mistake("mistake", [](const Arguments& arguments) {
    const Array name = arguments["name"];
    const kernels::Memory memory{arguments["floats"].as<float>(), arguments["words"].as<uint32_t>()};
    for (const kernels::Mistake& candidate : kernels::kMistakes) {
        if (std::string_view(name.as<const char>(), static_cast<size_t>(name.bytes)) != candidate.name) continue;
        halfops::launch<kernels::mistake_kernel>(Grid{1, threads_of(arguments)}, nullptr, candidate.device_function,
                                                 memory);
        return;
    }
    refuse_call("no such mistake", "mistake");
});

// What a device refuses comes back as a status.
const Entry status("status", [](const Arguments& arguments) {
    const kernels::Memory memory{};
    *arguments["status"].as<int32_t>() = static_cast<int32_t>(halfops::launch<kernels::mistake_kernel>(
        Grid{arguments.value<uint32_t>("blocks"), threads_of(arguments), arguments.value<uint32_t>("shared")}, nullptr,
        [](kernels::Memory) {}, memory));
});

}  // namespace
