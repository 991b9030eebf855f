// Front door of the pointwise room: activations on their own, their gradients, and column sums for a bias gradient.
#pragma once

#include <cstdint>

#include "core/cuda_status.h"
#include "core/dtype.h"
#include "core/parallel.h"
#include "math/activation.h"

namespace halfops::pointwise {

namespace cpu {
// All operands of one call: n elements each, contiguous, of one dtype. Arithmetic in fp32, one rounding per output.
void activate(Activation activation, DType dtype, const void* z, int64_t n, const Parallel& parallel, void* y);
void activate_backward(Activation activation, DType dtype, const void* dy, const void* z, int64_t n,
                       const Parallel& parallel, void* dz);
void gate(Activation activation, DType dtype, const void* gate, const void* up, int64_t n, const Parallel& parallel,
          void* h);
void gate_backward(Activation activation, DType dtype, const void* dh, const void* gate, const void* up, int64_t n,
                   const Parallel& parallel, void* d_gate, void* d_up);

// sums[j] = round(sum over rows of x[i * row_stride + j]), in the order of core/column_order.h.
void column_sums(DType dtype, const void* x, int64_t rows, int64_t cols, int64_t row_stride, const Parallel& parallel,
                 void* sums);
}  // namespace cpu

namespace cuda {
// The same bits on the device that is current: nothing waits for the host, everything can be captured in a CUDA graph.
// All pointers are device pointers that may have any alignment of their elements, `stream` is a cudaStream_t.

// Whether this binary has kernels for the current device.
CudaStatus supported();

CudaStatus activate(Activation activation, DType dtype, const void* z, int64_t n, void* stream, void* y);
CudaStatus activate_backward(Activation activation, DType dtype, const void* dy, const void* z, int64_t n, void* stream,
                             void* dz);
CudaStatus gate(Activation activation, DType dtype, const void* gate, const void* up, int64_t n, void* stream, void* h);
CudaStatus gate_backward(Activation activation, DType dtype, const void* dh, const void* gate, const void* up,
                         int64_t n, void* stream, void* d_gate, void* d_up);

// Bytes for the sums on the way, aligned to 16; kept by the caller until the kernels are done.
int64_t column_sums_workspace_bytes(int64_t rows, int64_t cols);
CudaStatus column_sums(DType dtype, const void* x, int64_t rows, int64_t cols, int64_t row_stride, void* workspace,
                       void* stream, void* sums);
}  // namespace cuda

}  // namespace halfops::pointwise
