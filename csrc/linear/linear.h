// Front door of the linear room: D = epilogue(A B), fp16, bf16 and fp32 with fp32 accumulation.
//
// Forward, dgrad, wgrad and matmul are this one problem with other strides and other parts of the epilogue in use:
//   v = alpha * (a b) + bias, or alpha * (a b + a2 b2) + bias
//   z = round(v) when there is an activation or a preact to save;  preact = z
//   y = act(z), or act'(grad_preact) * v, or v
//   out = round(y + beta * c)
// Gated, where there is a b2 and no a2: v2 = a b2 + bias2, z2 = round(v2), preact2 = z2, out = round(act(z) * z2).
// The gradient of that, where there is a grad_up: with v as dh, out = round(v * grad_up * act'(grad_preact)) and
//   out2 = round(v * act(grad_preact)).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/cuda_status.h"
#include "core/dtype.h"
#include "core/parallel.h"
#include "linear/blas.h"
#include "math/activation.h"

namespace halfops::linear {

struct Matrix {
    const void* data;
    DType dtype;
    int64_t rows, cols, row_stride, col_stride;  // strides count elements; any from 0 on are legal
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

    // Gated, forward and backward; neither goes with c, alpha or an out of another dtype than a's.
    const void* bias2 = nullptr;  // [N], of the second product
    void* preact2 = nullptr;      // [M, N] contiguous, of the second product
    const Matrix* grad_up = nullptr;
    void* out2 = nullptr;  // [M, N] with out's strides and dtype

    // What is left behind of the stored numbers, in a fixed order of additions. CUDA only: beside the CPU engine the
    // binding makes them with the pointwise and the scale room's.
    void* column_sums = nullptr;   // [N], in the dtype of a: round(sum over the rows of out), a bias gradient
    void* column_sums2 = nullptr;  // the same of out2
    double* stats = nullptr;       // [3]: sum of squares of out, 1 if an element is not finite else 0, and 0
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
    // A second product of the same shape; not with a batch. CUDA only: the CPU engine is given two problems.
    const Matrix* a2 = nullptr;
    const Matrix* b2 = nullptr;
};

namespace cpu {
void gemm(const Problem& problem, const Blas& blas, const Parallel& parallel);
}  // namespace cpu

namespace cuda {

CudaStatus supported();

// What a problem runs as on the current device: a row of the table of policies, and how many blocks share the work.
struct Plan {
    int policy = -1;
    int64_t blocks = 0;
};

// Lends device memory, at least 16-byte aligned, until the kernels that are launched next have used it.
struct Lender {
    void* (*lend)(int64_t bytes, void* context);
    void* context;
    void* operator()(int64_t bytes) const { return lend(bytes, context); }
};

// fp16 and bf16 operands. Where the device has no instructions for the dtype (bf16 below sm_80): cudaErrorNotSupported,
// with the architecture's name as its text ("sm_75"). `ran` tells what it ran as; nothing, where there was nothing to
// do.
CudaStatus gemm(const Problem& problem, const Lender& memory, void* stream, Plan* ran);

std::vector<std::string> policies();     // the rows' names
std::string describe(const Plan& plan);  // "128x256x32, 4 stages, 512 blocks"

// For tuning and tests: from now on every plan of this thread takes this row and, where blocks is not 0, that many
// blocks, if the row can serve the problem. An empty name ends it.
void force_policy(const std::string& name, int64_t blocks);

}  // namespace cuda

}  // namespace halfops::linear
