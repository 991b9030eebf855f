// The matrix product that the CPU engine borrows: binding/ lends torch's own, tests lend three loops.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace halfops::linear {

// A matrix in memory, or `batch` of them; strides count elements.
struct Strided {
    void* data;
    int64_t rows, cols, row_stride, col_stride;
    int64_t batch = 1, batch_stride = 0;
};

struct Blas {
    // c = a b, or c += a b, in fp32: c has unit column stride.
    void (*product)(const Strided& a, const Strided& b, const Strided& c, bool accumulate);
    // c = round(a b + start) in bf16 with fp32 accumulation and one rounding. start is null, or [1, N] for every row,
    // or [M, N] and then it may be c.
    void (*product_bf16)(const Strided& a, const Strided& b, const Strided* start, const Strided& c);
};

}  // namespace halfops::linear
