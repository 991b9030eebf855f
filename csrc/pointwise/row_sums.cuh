// The lower half of column sums (core/column_order.h): kRowsInFloat rows of each column in fp32.
#pragma once

#include "collective/vector.cuh"
#include "collective/warp.cuh"
#include "core/column_order.h"

namespace halfops::pointwise {

inline constexpr unsigned kSumThreads = 256;
inline constexpr int64_t kStrip = kWarpSize * kEight;  // columns of a warp

// A matrix with neighbouring columns side by side.
template <class T>
struct Rows {
    const T* data;
    int64_t rows, cols, stride;
    bool aligned;  // every row begins at a multiple of 16 bytes
};

// A thread's eight columns are neighbours; the rows of one round do not wait for one another.
template <class T>
__device__ __forceinline__ void add_aligned(const T* at, int64_t rows, int64_t stride, float (&sums)[kEight]) {
    constexpr int kTogether = 8 / Eight<T>::kVectors;
    int64_t i = 0;
#pragma unroll 1
    for (; i + kTogether <= rows; i += kTogether) {
        Eight<T> loaded[kTogether];
#pragma unroll
        for (int u = 0; u < kTogether; ++u) loaded[u] = Eight<T>::load(at + (i + u) * stride);
#pragma unroll
        for (int u = 0; u < kTogether; ++u) {
#pragma unroll
            for (int j = 0; j < kEight; ++j) sums[j] += to_f32(element_of<T>(loaded[u].bits(j)));
        }
    }
#pragma unroll 1
    for (; i < rows; ++i) {
#pragma unroll
        for (int j = 0; j < kEight; ++j) sums[j] += to_f32(at[i * stride + j]);
    }
}

// A thread's eight columns are kWarpSize apart, so that a warp's accesses are neighbours; only `cols` are there.
template <class T>
__device__ __forceinline__ void add_any(const T* at, int64_t rows, int64_t cols, int64_t stride,
                                        float (&sums)[kEight]) {
#pragma unroll 2
    for (int64_t i = 0; i < rows; ++i) {
#pragma unroll
        for (int j = 0; j < kEight; ++j) {
            if (j * kWarpSize < cols) sums[j] += to_f32(at[i * stride + j * kWarpSize]);
        }
    }
}

// partial[i, j] = the sum of row block i in column j. A warp takes a row block of a strip of columns.
template <class T>
__global__ void __launch_bounds__(kSumThreads, 4) add_rows_kernel(Rows<T> x, float* partial) {
    const int64_t strips = ceil_div(x.cols, kStrip), blocks = ceil_div(x.rows, kRowsInFloat);
    for (int64_t w = warp_in_grid(); w < strips * blocks; w += warps_in_grid()) {
        const int64_t block = w / strips, col = w % strips * kStrip;
        const int64_t rows = smaller(kRowsInFloat, x.rows - block * kRowsInFloat);
        const bool whole = x.aligned && col + kStrip <= x.cols;
        const int mine = whole ? lane_index() * kEight : lane_index(), apart = whole ? 1 : kWarpSize;
        const T* first = x.data + block * kRowsInFloat * x.stride + col + mine;
        const int64_t there = x.cols - col - mine;
        float sums[kEight] = {};
        if (whole) {
            add_aligned(first, rows, x.stride, sums);
        } else {
            add_any(first, rows, there, x.stride, sums);
        }
        float* target = partial + block * x.cols + col + mine;
#pragma unroll
        for (int j = 0; j < kEight; ++j) {
            if (j * apart < there) target[j * apart] = sums[j];
        }
    }
}

}  // namespace halfops::pointwise
