// Front door of the pointwise room: activations on their own, their gradients, and column sums for a bias gradient.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/parallel.h"
#include "math/activation.h"

namespace halfops::pointwise::cpu {

// All operands of one call: n elements each, contiguous, of one dtype. Arithmetic in fp32, one rounding per output.
void activate(Activation activation, DType dtype, const void* z, int64_t n, const Parallel& parallel, void* y);
void activate_backward(Activation activation, DType dtype, const void* dy, const void* z, int64_t n,
                       const Parallel& parallel, void* dz);
void gate(Activation activation, DType dtype, const void* gate, const void* up, int64_t n, const Parallel& parallel,
          void* h);
void gate_backward(Activation activation, DType dtype, const void* dh, const void* gate, const void* up, int64_t n,
                   const Parallel& parallel, void* d_gate, void* d_up);

// sums[j] = round(sum over rows of x[i * row_stride + j]), in an order that depends on nothing but the shape.
void column_sums(DType dtype, const void* x, int64_t rows, int64_t cols, int64_t row_stride, const Parallel& parallel,
                 void* sums);

}  // namespace halfops::pointwise::cpu
