// The sum over a block, as kernels write it: shuffles within each warp, shared memory between the warps.
#pragma once

#include <cuda_runtime.h>

#include "collective/shared.cuh"

namespace kernels {

__device__ inline float warp_sum(float value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}

// Everybody gets the sum. The array may be used again at once.
template <int kThreads>
__device__ float block_sum(float value) {
    float* partial = halfops::shared_array<struct BlockSum, float, kThreads / 32>();
    const unsigned lane = threadIdx.x % 32;
    const unsigned warp = threadIdx.x / 32;
    value = warp_sum(value);
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    if (warp == 0) {
        value = warp_sum(lane < kThreads / 32 ? partial[lane] : 0.0f);
        __syncwarp();
        if (lane == 0) partial[0] = value;
    }
    __syncthreads();
    const float sum = partial[0];
    __syncthreads();
    return sum;
}

}  // namespace kernels
