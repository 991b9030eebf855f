// Column sums from partial sums: the upper half of the order in core/column_order.h.
//
// A block takes strips of 32 columns. Its warps take groups of partial sums, each thread one column of one group; then
// the first warp adds what the groups have become, in order, while the others are at the next ones.
#pragma once

#include "collective/launch.cuh"
#include "collective/shared.cuh"
#include "collective/warp.cuh"
#include "core/column_order.h"
#include "core/dtype.h"
#include "ptx/roles.cuh"

namespace halfops {

inline constexpr int kGroupsAtOnce = 32;  // warps of a block
inline constexpr unsigned kAddThreads = kGroupsAtOnce * kWarpSize;

template <class Partial>
__device__ __forceinline__ double sum_of_group(const Partial* first, int64_t count, int64_t cols) {
    double sum = 0.0;
    if (count == kSumsOfGroup) {
#pragma unroll 8
        for (int i = 0; i < kSumsOfGroup; ++i) sum += static_cast<double>(first[i * cols]);
    } else {
        for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(first[i * cols]);
    }
    return sum;
}

template <class Partial, class T>
__global__ void __launch_bounds__(kAddThreads)
    add_columns_kernel(const Partial* partial, int64_t rows, int64_t cols, T* out) {
    auto& sums = shared_array<Partial, double, 2 * kAddThreads>();  // of two rounds
    ptx::wait_for_earlier_grids();
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int64_t groups = ceil_div(rows, kSumsOfGroup);
    unsigned half = 0;
    for (int64_t col = blockIdx.x * static_cast<int64_t>(kWarpSize) + lane_index(); col - lane_index() < cols;
         col += gridDim.x * static_cast<int64_t>(kWarpSize)) {
        double total = 0.0;  // of the first warp
        for (int64_t first = 0; first < groups; first += kGroupsAtOnce, half ^= kAddThreads) {
            const int64_t begin = (first + warp) * kSumsOfGroup;
            if (begin < rows && col < cols) {
                sums[half + threadIdx.x] =
                    sum_of_group(partial + begin * cols + col, smaller(kSumsOfGroup, rows - begin), cols);
            }
            // The only barrier of a round: who writes this half again has met the first warp at the next one.
            __syncthreads();
            if (warp == 0 && col < cols) {
                const int64_t there = smaller(kGroupsAtOnce, groups - first);
                for (int64_t i = 0; i < there; ++i) total += sums[half + i * kWarpSize + lane_index()];
            }
        }
        if (warp == 0 && col < cols) out[col] = from_f32<T>(static_cast<float>(total));
    }
}

// out[j] = round(sum over i of partial[i, j]): partial is [rows, cols] without gaps, in fp32 or double. `overlaps`: as
// Grid has it.
template <class T, class Partial>
cudaError_t add_columns(const Partial* partial, int64_t rows, int64_t cols, T* out, cudaStream_t stream,
                        bool overlaps = false) {
    Grid grid{1, kAddThreads};
    grid.overlaps = overlaps;
    const int64_t strips = ceil_div(cols, kWarpSize);
    const cudaError_t status = persistent_blocks<add_columns_kernel<Partial, T>>(strips, kAddThreads, &grid.blocks);
    if (status != cudaSuccess || cols == 0) return status;
    return launch<add_columns_kernel<Partial, T>>(grid, stream, partial, rows, cols, out);
}

}  // namespace halfops
