// Front door of the linear room: D = epilogue(A B), fp16, bf16 and fp32 with fp32 accumulation.
//
// Forward, dgrad, wgrad and matmul are this one problem with other strides and other parts of the epilogue in use:
//   v = alpha * (a b) + bias
//   z = round(v) when there is an activation or a preact to save;  preact = z
//   y = act(z), or act'(grad_preact) * v, or v
//   out = round(y + beta * c)
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/parallel.h"
#include "linear/blas.h"
#include "math/activation.h"

namespace halfops::linear {

struct Matrix {
    const void* data;
    DType dtype;
    int64_t rows, cols, row_stride, col_stride;  // strides count elements; any are legal
};

struct Epilogue {
    float alpha = 1.0f;
    const void* bias = nullptr;  // [N], in the dtype of a
    void* preact = nullptr;      // [M, N] contiguous, in the dtype of out
    Activation activation = Activation::none;
    const Matrix* grad_preact =
        nullptr;  // [M, N]: multiply by the activation's derivative there instead of applying it
    float beta = 0.0f;
    const Matrix* c = nullptr;  // [M, N]; not read when beta is 0. It may be out itself.
};

struct Problem {
    Matrix a, b;  // [M, K], [K, N]; of one dtype
    void* out;    // [M, N] with unit column stride
    DType out_dtype;
    int64_t out_stride;
    Epilogue epilogue;
    // `batch` products of this shape: operand i begins at data + offsets[i] elements. Their outputs, and c, are one
    // matrix of batch * M rows.
    int64_t batch = 1;
    const int64_t* a_offsets = nullptr;
    const int64_t* b_offsets = nullptr;
};

namespace cpu {
void gemm(const Problem& problem, const Blas& blas, const Parallel& parallel);
}  // namespace cpu

}  // namespace halfops::linear
