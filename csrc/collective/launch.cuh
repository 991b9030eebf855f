// The only launch in the project: it checks, and it is what an emulator replaces.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if defined(HALFOPS_EMULATOR)
#include "emulator/launch.h"
#endif

namespace halfops {

struct Grid {
    unsigned blocks;
    unsigned threads;
    unsigned shared_bytes = 0;
};

// launch<kernel>(grid, stream, arguments...): the kernel is a template argument, so that an emulator knows its name.
template <auto kKernel, class... Args>
cudaError_t launch(Grid grid, cudaStream_t stream, Args... args) {
#if defined(HALFOPS_EMULATOR)
    static_cast<void>(stream);
    const auto name = emulator::kernel_name<kKernel>();
    return emulator::launch(grid.blocks, grid.threads, grid.shared_bytes, name, [&] { kKernel(args...); });
#else
    kKernel<<<grid.blocks, grid.threads, grid.shared_bytes, stream>>>(args...);
    return cudaGetLastError();
#endif
}

// Blocks for a grid-stride loop: enough to fill the current device, no more than there is work for.
inline cudaError_t persistent_blocks(int64_t wanted, int per_multiprocessor, unsigned* blocks) {
    int device = 0, multiprocessors = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status == cudaSuccess) {
        status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    }
    const int64_t fill = static_cast<int64_t>(multiprocessors) * per_multiprocessor;
    const int64_t count = wanted < fill ? wanted : fill;
    *blocks = static_cast<unsigned>(count < 1 ? 1 : count);
    return status;
}

}  // namespace halfops
