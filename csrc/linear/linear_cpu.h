// What each CPU variant of the linear engine offers; linear_cpu.cpp picks one.
#pragma once

#include "linear/linear.h"

namespace halfops::linear {

// One row of the output, or a part of one: pointers are to its first element, strides count elements.
struct RowEpilogue {
    float alpha, beta;
    Activation activation;
    const void* bias;
    DType bias_dtype;
    void* preact;
    const void* grad_preact;
    DType grad_preact_dtype;
    int64_t grad_preact_stride;
    const void* grad_up;  // with grad_preact as the gate: the gradients of both factors, the second into out2
    DType grad_up_dtype;
    int64_t grad_up_stride;
    const void* c;
    DType c_dtype;
    int64_t c_stride;
    void* out;
    void* out2;
    DType out_dtype;
};

struct CpuEngine {
    // target[i] = source[i * stride]
    void (*widen_row)(const void* source, DType dtype, int64_t stride, int64_t n, float* target);
    void (*epilogue_row)(const RowEpilogue& row, const float* acc, int64_t n);
};

extern const CpuEngine kPortable;
#if defined(__x86_64__)
extern const CpuEngine kAvx2, kAvx512;
#endif

}  // namespace halfops::linear
