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

// A thread adds eight neighbours; the rows of 128 bytes in flight do not wait for one another.
template <class T>
__device__ __forceinline__ void add_eights(const T* at, int64_t rows, int64_t stride, float (&sums)[kEight]) {
#pragma unroll(8 / Eight<T>::kVectors)
    for (int64_t i = 0; i < rows; ++i) {
        const Eight<T> loaded = Eight<T>::load(at + i * stride);
#pragma unroll
        for (int j = 0; j < kEight; ++j) sums[j] += to_f32(element_of<T>(loaded.bits(j)));
    }
}

// partial[i, j] = the sum of row block i in column j. A warp takes a row block of a strip of columns.
template <class T>
__global__ void __launch_bounds__(kSumThreads, 4) add_rows_kernel(Rows<T> x, float* partial) {
    const int64_t strips = ceil_div(x.cols, kStrip), blocks = ceil_div(x.rows, kRowsInFloat);
    for (int64_t w = warp_in_grid(); w < strips * blocks; w += warps_in_grid()) {
        const int64_t block = w / strips, col = w % strips * kStrip;
        const int64_t rows = smaller(kRowsInFloat, x.rows - block * kRowsInFloat);
        const T* first = x.data + block * kRowsInFloat * x.stride + col;
        float* target = partial + block * x.cols + col;
        if (x.aligned && col + kStrip <= x.cols) {
            float sums[kEight] = {};
            const int mine = lane_index() * kEight;
            add_eights(first + mine, rows, x.stride, sums);
#pragma unroll
            for (int j = 0; j < kEight; ++j) target[mine + j] = sums[j];
        } else {
            // Columns in turn, so that a warp's accesses are neighbours.
            for (int64_t j = lane_index(); j < smaller(kStrip, x.cols - col); j += kWarpSize) {
                float sum = 0.0f;
#pragma unroll 8
                for (int64_t i = 0; i < rows; ++i) sum += to_f32(first[i * x.stride + j]);
                target[j] = sum;
            }
        }
    }
}

}  // namespace halfops::pointwise
