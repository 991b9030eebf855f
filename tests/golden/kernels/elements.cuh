// What every file of micro-kernels needs: one thread an element, and the grid for that.
#pragma once

#include <stdexcept>

#include "collective/launch.cuh"
#include "driver/entry.h"

namespace golden {

using emulator::Arguments;
using emulator::Array;
using emulator::Entry;  // of the emulator's driver; on a GPU, device.cu calls the same entries
using halfops::Grid;
using halfops::launch;

inline constexpr unsigned kThreads = 128;

__device__ __forceinline__ int64_t element() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

template <class T>
Grid one_thread_each(const Array& array) {
    return {static_cast<unsigned>((array.count<T>() + kThreads - 1) / kThreads), kThreads};
}

// A launch that was refused is an error of the caller's.
inline void launched(cudaError_t status) {
    if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

}  // namespace golden
