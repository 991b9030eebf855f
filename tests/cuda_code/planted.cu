// Kernels with one defect each: the checks of test_cuda_code.py must find it.
#include "collective/vector.cuh"
#include "ptx/wgmma.cuh"

namespace planted {

using halfops::Eight;

__global__ void indexed_local_array(const int* at, float* x) {
    float values[16] = {};
    for (int i = 0; i < 16; ++i) values[at[i]] += x[i];
    x[threadIdx.x] = values[at[threadIdx.x]];
}

__global__ void fused_and_approximate(float* x) {
    x[threadIdx.x] = fmaf(x[threadIdx.x], x[threadIdx.x + 32], __fdividef(x[threadIdx.x + 64], x[threadIdx.x + 96]));
}

__global__ void one_by_one(float* x, int n) {
#pragma unroll 1
    for (int i = 0; i < n; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) x[8 * i + j] += 1.0f;
    }
}

// Each load's address depends on what the one before has brought.
__global__ void one_after_the_other(const float* x, float* y, int n) {
#pragma unroll 1
    for (int i = 0; i < n; ++i) {
        const auto first = Eight<float>::load(x + 8 * i);
        uint32_t place = 0;
        for (int j = 0; j < 8; ++j) place ^= first.bits(j);
        const auto second = Eight<float>::load(x + 8 * (place & 1023u));
        second.store(y + 8 * i);
    }
}

// Accumulators are read while products are under way: ptxas waits for each of them.
__global__ void __launch_bounds__(128) read_too_early(float* x, uint64_t a, uint64_t b) {
    float sums[32];
    halfops::ptx::wgmma_fence();
    halfops::ptx::wgmma<halfops::f16, 64, 0, 0>(sums, a, b, false);
    x[threadIdx.x] = sums[3];
    halfops::ptx::wgmma<halfops::f16, 64, 0, 0>(sums, a, b, true);
    halfops::ptx::wgmma_commit();
    halfops::ptx::wgmma_wait<0>();
    for (int i = 0; i < 32; ++i) x[i * 128 + threadIdx.x] = sums[i];
}

}  // namespace planted
