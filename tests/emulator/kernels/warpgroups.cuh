// Small products of a warpgroup, with and without a mistake each.
#pragma once

#include "collective/shared.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

namespace kernels {

enum class Slip : int { none, no_fence, no_proxy_fence, early_write, early_read, other_descriptor, no_wait };

// out[thread] = d[0] of the first 64 x 8 product of what `in` fills 8 + 1 KiB with, line by line along K.
__global__ void __launch_bounds__(128) slip_kernel(const uint32_t* in, Slip slip, float* out) {
    char* shared = halfops::shared_bytes_as<char>();
    auto* words = reinterpret_cast<uint32_t*>(shared);
    for (unsigned i = threadIdx.x; i < 9216 / 4; i += 128) words[i] = in[i];
    if (slip != Slip::no_proxy_fence) halfops::ptx::fence_proxy_async();
    __syncthreads();
    const int off = slip == Slip::other_descriptor && threadIdx.x / 32 == 2 ? 32 : 0;
    const uint64_t a = halfops::ptx::wgmma_descriptor(shared + off, 16, 1024);
    const uint64_t b = halfops::ptx::wgmma_descriptor(shared + 8192, 16, 1024);
    float d[4] = {};
    if (slip != Slip::no_fence) halfops::ptx::wgmma_fence();
    halfops::ptx::wgmma<halfops::f16, 8, 0, 0>(d, a, b, false);
    halfops::ptx::wgmma_commit();
    if (slip == Slip::early_write) d[0] = 1.0f;
    if (slip == Slip::early_read) out[threadIdx.x] = d[0];
    if (slip == Slip::no_wait) return;
    halfops::ptx::wgmma_wait<0>();
    if (slip != Slip::early_read) out[threadIdx.x] = d[0];
}

}  // namespace kernels
