// Threads that tell each other something through shared memory, and have to wait for each other.
#pragma once

#include <cuda_runtime.h>

#include "collective/shared.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"

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

// Sums of rows of 16 bytes a thread, which come by cp.async: the next one is on its way while this one is added up.
template <int kThreads>
__global__ void streamed_sums_kernel(const float4* in, int rows, float4* out) {
    auto& ring = halfops::shared_array<struct Ring, float4, 2 * kThreads>();
    const int thread = static_cast<int>(threadIdx.x);
    const auto start = [&](int row) {
        float4* place = &ring[row % 2 * kThreads + thread];
        if (row < rows) halfops::ptx::cp_async_16(place, in + row * kThreads + thread, 16);
        halfops::ptx::cp_async_commit();
    };
    float4 sum{};
    start(0);
    for (int row = 0; row < rows; ++row) {
        start(row + 1);
        halfops::ptx::cp_async_wait<1>();
        __syncthreads();
        const float4 value = ring[row % 2 * kThreads + kThreads - 1 - thread];
        sum = {sum.x + value.x, sum.y + value.y, sum.z + value.z, sum.w + value.w};
        __syncthreads();
    }
    out[thread] = sum;
}

// Each lane stores a row, the warp loads them all as matrices: without .trans that puts the words in their old order.
__global__ void matrices_kernel(const uint4* in, uint32_t* out) {
    auto& rows = halfops::shared_array<struct Matrices, uint4, 32>();
    const auto lane = threadIdx.x;
    rows[lane ^ 1] = in[lane ^ 1];
    __syncwarp();
    uint32_t r[4];
    halfops::ptx::ldmatrix_x4(r, &rows[lane]);
    for (int i = 0; i < 4; ++i) out[i * 32 + lane] = r[i];
}

}  // namespace kernels
