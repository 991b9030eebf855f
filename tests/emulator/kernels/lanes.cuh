// Every shuffle, vote and reduction of a warp: row `r` of the result is what operation `r` gave to each lane.
#pragma once

#include <cuda_runtime.h>

namespace kernels {

inline constexpr uint32_t kAll = 0xffffffffu;

template <class T>
__global__ void shuffles_kernel(const T* in, int lane, int width, T* out) {
    const T value = in[threadIdx.x];
    out[0 * 32 + threadIdx.x] = __shfl_sync(kAll, value, lane, width);
    out[1 * 32 + threadIdx.x] = __shfl_up_sync(kAll, value, lane, width);
    out[2 * 32 + threadIdx.x] = __shfl_down_sync(kAll, value, lane, width);
    out[3 * 32 + threadIdx.x] = __shfl_xor_sync(kAll, value, lane, width);
}

__global__ void votes_kernel(const int* in, uint32_t* out) {
    const int value = in[threadIdx.x];
    const unsigned row = blockDim.x;
    out[0 * row + threadIdx.x] = __ballot_sync(kAll, value > 0);
    out[1 * row + threadIdx.x] = __any_sync(kAll, value > 0);
    out[2 * row + threadIdx.x] = __all_sync(kAll, value > 0);
    out[3 * row + threadIdx.x] = __match_any_sync(kAll, value);
    out[4 * row + threadIdx.x] = __reduce_add_sync(kAll, static_cast<unsigned>(value));
    out[5 * row + threadIdx.x] = static_cast<uint32_t>(__reduce_min_sync(kAll, value));
    out[6 * row + threadIdx.x] = static_cast<uint32_t>(__reduce_max_sync(kAll, value));
    out[7 * row + threadIdx.x] = __reduce_xor_sync(kAll, static_cast<unsigned>(value));
}

// Two halves of a warp may go different ways, each with its own mask.
__global__ void half_votes_kernel(const int* in, uint32_t* out) {
    const int value = in[threadIdx.x];
    if (threadIdx.x % 32 < 16) {
        out[threadIdx.x] = __ballot_sync(0x0000ffffu, value > 0);
    } else {
        out[threadIdx.x] = __ballot_sync(0xffff0000u, value < 0);
    }
}

__global__ void block_votes_kernel(const int* in, int* out) {
    const int value = in[threadIdx.x];
    out[0 * blockDim.x + threadIdx.x] = __syncthreads_or(value > 0);
    out[1 * blockDim.x + threadIdx.x] = __syncthreads_and(value > 0);
    out[2 * blockDim.x + threadIdx.x] = __syncthreads_count(value > 0);
}

}  // namespace kernels
