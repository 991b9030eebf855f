// Copies that go on while the thread does: when they happen, and where they write.
#pragma once

#include <cuda_runtime.h>

#include "collective/shared.cuh"
#include "ptx/cp_async.cuh"

namespace kernels {

// Each thread looks at its own 16 bytes before it waits for them, after some barriers.
__global__ void early_kernel(const uint4* in, int barriers, uint4* out) {
    auto& piece = halfops::shared_array<struct Early, uint4, 64>();
    halfops::ptx::cp_async_16(&piece[threadIdx.x], in + threadIdx.x, 16);
    halfops::ptx::cp_async_commit();
    for (int i = 0; i < barriers; ++i) __syncthreads();
    out[threadIdx.x] = piece[threadIdx.x];
    halfops::ptx::cp_async_wait<0>();
}

// One warp; lanes write 16 bytes each, `stride` times 16 bytes from each other.
__global__ void stride_kernel(const uint4* in, int stride, uint4* out) {
    uint4* piece = halfops::shared_bytes_as<uint4>() + static_cast<int>(threadIdx.x) * stride;
    halfops::ptx::cp_async_16(piece, in + threadIdx.x, 16);
    halfops::ptx::cp_async_commit();
    halfops::ptx::cp_async_wait<0>();
    out[threadIdx.x] = *piece;
}

}  // namespace kernels
