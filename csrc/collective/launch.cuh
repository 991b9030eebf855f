// The only launch in the project: it checks, and it is what an emulator replaces.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

#include "core/chunk_table.h"

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
template <auto kKernel, class... Arguments>
cudaError_t launch(Grid grid, cudaStream_t stream, const Arguments&... arguments) {
#if defined(HALFOPS_EMULATOR)
    static_cast<void>(stream);
    return emulator::launch(grid.blocks, grid.threads, grid.shared_bytes, emulator::kernel_name<kKernel>(),
                            [&] { kKernel(arguments...); });
#else
    kKernel<<<grid.blocks, grid.threads, grid.shared_bytes, stream>>>(arguments...);
    return cudaGetLastError();
#endif
}

// Blocks for a loop over `wanted` blocks' worth of work: as many as the current device holds at once, no more than
// there is work for. What a device holds is asked once.
template <auto kKernel>
cudaError_t persistent_blocks(int64_t wanted, unsigned threads, unsigned* blocks) {
    constexpr int kDevices = 64;
    static std::atomic<int> resident[kDevices];  // 0: not asked yet
    int device = 0;
    cudaError_t status = cudaGetDevice(&device);
    int known = status == cudaSuccess && device < kDevices ? resident[device].load(std::memory_order_relaxed) : 0;
    if (status == cudaSuccess && known == 0) {
        int multiprocessors = 0, each = 0;
        status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
        if (status == cudaSuccess) {
            status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kKernel, static_cast<int>(threads), 0);
        }
        known = multiprocessors * each;
        if (status == cudaSuccess && device < kDevices) resident[device].store(known, std::memory_order_relaxed);
    }
    *blocks = static_cast<unsigned>(larger(1, smaller(wanted, known)));
    return status;
}

// Whether this binary has the kernel for the current device; a yes is asked for once a device.
template <auto kKernel>
cudaError_t has_kernel() {
    constexpr int kDevices = 64;
    static std::atomic<bool> known[kDevices];
    int device = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status != cudaSuccess || (device < kDevices && known[device].load(std::memory_order_relaxed))) return status;
    cudaFuncAttributes attributes;
    status = cudaFuncGetAttributes(&attributes, kKernel);
    if (status == cudaSuccess && device < kDevices) known[device].store(true, std::memory_order_relaxed);
    return status;
}

inline CudaStatus status_of(cudaError_t code) {
    return {static_cast<int>(code), code == cudaSuccess ? nullptr : cudaGetErrorString(code)};
}

}  // namespace halfops
