// The only launch in the project: it checks, and it is what an emulator replaces.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

#include "core/cuda_status.h"
#include "core/shape.h"

#if defined(HALFOPS_EMULATOR)
#include "emulator/launch.h"
#endif

namespace halfops {

struct Grid {
    unsigned blocks;
    unsigned threads;
    unsigned shared_bytes = 0;
    unsigned cluster = 1;  // neighbouring blocks that run at the same time (sm_90); blocks is a multiple of it
    // The kernel may begin while the one before it in the stream ends: it calls wait_for_earlier_grids (ptx/roles.cuh).
    bool overlaps = false;
};

// launch<kernel>(grid, stream, arguments...): the kernel is a template argument, so that an emulator knows its name.
template <auto kKernel, class... Arguments>
cudaError_t launch(Grid grid, cudaStream_t stream, const Arguments&... arguments) {
#if defined(HALFOPS_EMULATOR)
    static_cast<void>(stream);
    return emulator::launch<kKernel>(grid.blocks, grid.threads, grid.shared_bytes, grid.cluster,
                                     [&] { kKernel(arguments...); });
#else
    if (grid.cluster == 1 && !grid.overlaps) {
        kKernel<<<grid.blocks, grid.threads, grid.shared_bytes, stream>>>(arguments...);
        return cudaGetLastError();
    }
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {grid.cluster, 1, 1};
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = grid.overlaps ? 1 : 0;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(grid.blocks);
    config.blockDim = dim3(grid.threads);
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
    const cudaError_t status = cudaLaunchKernelEx(&config, kKernel, arguments...);
    static_cast<void>(cudaGetLastError());  // or the next launch would report it
    return status;
#endif
}

// A number about the current device that is asked for once and is not 0.
class DeviceFact {
  public:
    template <class Ask>
    cudaError_t get(int* number, const Ask& ask) {
        int device = 0;
        cudaError_t status = cudaGetDevice(&device);
        if (status != cudaSuccess) return status;
        *number = device < kDevices ? known_[device].load(std::memory_order_relaxed) : 0;
        if (*number != 0) return status;
        status = ask(device, number);
        if (status != cudaSuccess) {
            static_cast<void>(cudaGetLastError());  // or the next launch, on another device perhaps, would report it
        } else if (device < kDevices) {
            known_[device].store(*number, std::memory_order_relaxed);
        }
        return status;
    }

  private:
    static constexpr int kDevices = 64;
    std::atomic<int> known_[kDevices] = {};
};

// Blocks for a loop over `wanted` blocks' worth of work: as many as the current device holds at once, no more than
// there is work for.
template <auto kKernel>
cudaError_t persistent_blocks(int64_t wanted, unsigned threads, unsigned* blocks) {
    static DeviceFact resident;
    int held = 0;
    const cudaError_t status = resident.get(&held, [=](int device, int* number) {
        int multiprocessors = 0, each = 0;
        cudaError_t asked = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
        if (asked == cudaSuccess) {
            asked = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kKernel, static_cast<int>(threads), 0);
        }
        *number = multiprocessors * each;
        return asked;
    });
    *blocks = static_cast<unsigned>(larger(1, smaller(wanted, held)));
    return status;
}

// Lets a kernel ask for more shared memory than the 48 KiB that every kernel may.
template <auto kKernel>
cudaError_t allow_shared(unsigned bytes) {
    static DeviceFact allowed;
    int most = 0;
    return allowed.get(&most, [=](int, int* number) {
        *number = static_cast<int>(larger(1, bytes));
        return cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    });
}

// Whether this binary has the kernel for the current device.
template <auto kKernel>
cudaError_t has_kernel() {
    static DeviceFact had;
    int yes = 0;
    return had.get(&yes, [](int, int* number) {
        *number = 1;
        cudaFuncAttributes attributes;
        return cudaFuncGetAttributes(&attributes, kKernel);
    });
}

// The architecture that a kernel was compiled for, 10 * major + minor: what is in it. The device's own is newer where
// the driver has translated PTX.
template <auto kKernel>
cudaError_t compiled_for(int* architecture) {
    static DeviceFact known;
    return known.get(architecture, [](int, int* number) {
        cudaFuncAttributes attributes;
        const cudaError_t status = cudaFuncGetAttributes(&attributes, kKernel);
        if (status == cudaSuccess) *number = attributes.ptxVersion;
        return status;
    });
}

inline CudaStatus status_of(cudaError_t code) {
    return {static_cast<int>(code), code == cudaSuccess ? nullptr : cudaGetErrorString(code)};
}

}  // namespace halfops
