// What stands for `kernel<<<...>>>(...)`: collective/launch.cuh calls it.
#pragma once

#include <cstddef>
#include <string_view>

#include "emulator/runtime_api.h"
#include "emulator/vector_types.h"

namespace emulator {

// The kernel's name and template arguments, for error messages.
template <auto kKernel>
constexpr std::string_view kernel_name() {
    const std::string_view text = __PRETTY_FUNCTION__;
    constexpr std::string_view kBefore = "kKernel = ";
    const size_t begin = text.find(kBefore) + kBefore.size();
    return text.substr(begin, text.find_first_of(";]", begin) - begin);
}

// One launch as the runtime sees it: `run(body)` is what every thread executes.
struct Launch {
    dim3 blocks;
    dim3 threads;
    size_t shared_bytes;
    unsigned cluster;  // neighbouring blocks that run at the same time
    std::string_view name;
    const void* kernel;
    void (*run)(const void* body);
    const void* body;
};

// Runs all threads to their end. A launch that a device would refuse gives its status; whatever the emulator finds
// wrong in the kernel is a std::runtime_error.
cudaError_t run_launch(const Launch& launch);

template <auto kKernel, class Body>
cudaError_t launch(dim3 blocks, dim3 threads, size_t shared_bytes, unsigned cluster, const Body& body) {
    const auto run = [](const void* erased) { (*static_cast<const Body*>(erased))(); };
    return run_launch(
        Launch{blocks, threads, shared_bytes, cluster, kernel_name<kKernel>(), address_of(kKernel), run, &body});
}

}  // namespace emulator
