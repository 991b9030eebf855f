// What each CPU variant of the pointwise engine offers; pointwise_cpu.cpp picks one.
#pragma once

#include "pointwise/pointwise.h"

namespace halfops::pointwise {

// Operands of the element-wise loops; elements [begin, end) are done.
struct Elements {
    DType dtype;
    Activation activation;
    const void *in0, *in1, *in2;
    void *out0, *out1;
};

struct CpuEngine {
    void (*activate)(const Elements& e, int64_t begin, int64_t end);
    void (*activate_backward)(const Elements& e, int64_t begin, int64_t end);
    void (*gate)(const Elements& e, int64_t begin, int64_t end);
    void (*gate_backward)(const Elements& e, int64_t begin, int64_t end);
    // total[j] += the fp32 sum over `rows` rows of x[i * row_stride + j], j < cols
    void (*add_rows)(DType dtype, const void* x, int64_t rows, int64_t cols, int64_t row_stride, double* total);
    void (*narrow_sums)(DType dtype, const double* total, int64_t cols, void* sums);
};

extern const CpuEngine kPortable;
#if defined(__x86_64__)
extern const CpuEngine kAvx2, kAvx512;
#endif

}  // namespace halfops::pointwise
