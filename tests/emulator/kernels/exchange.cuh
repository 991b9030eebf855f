// Threads that tell each other something through shared memory, and have to wait for each other.
#pragma once

#include <cuda_runtime.h>

#include "collective/shared.cuh"

namespace kernels {

// Within each warp: every lane gets the value of its neighbour.
template <int kThreads>
__global__ void neighbour_kernel(const float* in, float* out) {
    auto& value = halfops::shared_array<struct Neighbour, float, kThreads>();
    value[threadIdx.x] = in[threadIdx.x];
    __syncwarp();
    out[threadIdx.x] = value[threadIdx.x ^ 1];
}

// Within the block, through dynamic shared memory: `in` backwards.
__global__ void backwards_kernel(const float* in, float* out) {
    float* value = halfops::shared_bytes_as<float>();
    value[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = value[blockDim.x - 1 - threadIdx.x];
}

// Rows of one element a thread, added up through shared memory: the last row is shorter than the block.
template <int kThreads>
__global__ void row_sums_kernel(const float* in, int numel, float* out) {
    auto& value = halfops::shared_array<struct Rows, float, kThreads>();
    float sum = 0.0f;
    for (int first = 0; first < numel; first += kThreads) {
        const int i = first + static_cast<int>(threadIdx.x);
        value[threadIdx.x] = i < numel ? in[i] : 0.0f;
        __syncthreads();
        sum += value[kThreads - 1 - threadIdx.x];
        __syncthreads();
    }
    out[threadIdx.x] = sum;
}

// One warp writes pieces of `in`, another one copies them to `out`: the named barriers "full" and "empty" between them.
__global__ void handover_kernel(const float* in, int pieces, float* out) {
    constexpr unsigned kFull = 1, kEmpty = 2, kBoth = 64;
    auto& piece = halfops::shared_array<struct Piece, float, 32>();
    const unsigned lane = threadIdx.x % 32;
    for (int i = 0; i < pieces; ++i) {
        if (threadIdx.x < 32) {
            if (i > 0) emulator::named_barrier_sync(kEmpty, kBoth);
            piece[lane] = in[i * 32 + lane];
            emulator::named_barrier_arrive(kFull, kBoth);
        } else {
            emulator::named_barrier_sync(kFull, kBoth);
            out[i * 32 + lane] = piece[lane];
            if (i + 1 < pieces) emulator::named_barrier_arrive(kEmpty, kBoth);
        }
    }
}

}  // namespace kernels
