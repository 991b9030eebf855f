#include "collective/column_sums.cuh"
#include "collective/launch.cuh"
#include "pointwise/elementwise.cuh"
#include "pointwise/pointwise.h"
#include "pointwise/row_sums.cuh"

namespace halfops::pointwise::cuda {
namespace {

// f(T{}) with the element type for a dtype.
template <class F>
CudaStatus with_dtype(DType dtype, const F& f) {
    switch (dtype) {
        case DType::f16:
            return status_of(f(f16{}));
        case DType::bf16:
            return status_of(f(bf16{}));
        default:
            return status_of(f(float{}));
    }
}

// Vectors begin where those of the first result do; whether that suits all others shows in their addresses.
template <class Op, class T>
cudaError_t over_elements(const Operands<Op, T>& operands, int64_t n, void* stream) {
    if (n == 0) return cudaSuccess;
    const int head = head_elements(operands.out[0]);
    bool aligned = true;
    for (const T* in : operands.in) aligned = aligned && is_aligned(in + head);
    for (const T* out : operands.out) aligned = aligned && is_aligned(out + head);
    const int missing = head > 0 ? kEight - head : 0;
    Grid grid{1, kThreads};
    const int64_t tiles = ceil_div(n + missing, kTile<Op, T>);
    const cudaError_t status =
        persistent_blocks<elementwise_kernel<Op, T>>(ceil_div(tiles, kThreads / kWarpSize), kThreads, &grid.blocks);
    if (status != cudaSuccess) return status;
    return launch<elementwise_kernel<Op, T>>(grid, static_cast<cudaStream_t>(stream), operands, n, missing, aligned);
}

template <template <class> class Op>
CudaStatus elementwise(Activation activation, DType dtype, const std::initializer_list<const void*>& in,
                       const std::initializer_list<void*>& out, int64_t n, void* stream) {
    return with_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        return with_activation(activation, [&](auto a) {
            Operands<Op<decltype(a)>, T> operands{};
            int k = 0;
            for (const void* one : in) operands.in[k++] = static_cast<const T*>(one);
            k = 0;
            for (void* one : out) operands.out[k++] = static_cast<T*>(one);
            return over_elements(operands, n, stream);
        });
    });
}

}  // namespace

CudaStatus supported() { return status_of(has_kernel<add_rows_kernel<f16>>()); }

CudaStatus activate(Activation activation, DType dtype, const void* z, int64_t n, void* stream, void* y) {
    return elementwise<Activate>(activation, dtype, {z}, {y}, n, stream);
}

CudaStatus activate_backward(Activation activation, DType dtype, const void* dy, const void* z, int64_t n, void* stream,
                             void* dz) {
    return elementwise<ActivateBackward>(activation, dtype, {dy, z}, {dz}, n, stream);
}

CudaStatus gate(Activation activation, DType dtype, const void* gate, const void* up, int64_t n, void* stream,
                void* h) {
    return elementwise<Gate>(activation, dtype, {gate, up}, {h}, n, stream);
}

CudaStatus gate_backward(Activation activation, DType dtype, const void* dh, const void* gate, const void* up,
                         int64_t n, void* stream, void* d_gate, void* d_up) {
    return elementwise<GateBackward>(activation, dtype, {dh, gate, up}, {d_gate, d_up}, n, stream);
}

int64_t column_sums_workspace_bytes(int64_t rows, int64_t cols) {
    return static_cast<int64_t>(sizeof(float)) * ceil_div(rows, kRowsInFloat) * cols;
}

CudaStatus column_sums(DType dtype, const void* x, int64_t rows, int64_t cols, int64_t row_stride, void* workspace,
                       void* stream, void* sums) {
    return with_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        const auto queue = static_cast<cudaStream_t>(stream);
        const auto* data = static_cast<const T*>(x);
        auto* partial = static_cast<float*>(workspace);
        const Rows<T> matrix{data, rows, cols, row_stride, is_aligned(data) && is_aligned(data + row_stride)};
        const int64_t blocks = ceil_div(rows, kRowsInFloat), shares = blocks * ceil_div(cols, kStrip);
        Grid grid{1, kSumThreads};
        cudaError_t status =
            persistent_blocks<add_rows_kernel<T>>(ceil_div(shares, kSumThreads / kWarpSize), kSumThreads, &grid.blocks);
        if (status == cudaSuccess && shares > 0) {
            status = launch<add_rows_kernel<T>>(grid, queue, matrix, partial);
        }
        if (status != cudaSuccess) return status;
        return add_columns(static_cast<const float*>(partial), blocks, cols, static_cast<T*>(sums), queue);
    });
}

}  // namespace halfops::pointwise::cuda
