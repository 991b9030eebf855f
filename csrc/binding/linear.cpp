// The linear ops on CPU tensors.
#include "binding/linear_ops.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "pointwise/pointwise.h"
#include "scale/scale.h"

namespace halfops::binding {
namespace {

using linear::Matrix;
using linear::Problem;
using linear::Strided;

// Torch's own products on memory that is ours. The shim calls the CPU kernel itself: no autograd, no autocast.
Tensor blob(const Strided& m, ScalarType dtype) {
    const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
    if (m.batch == 1) {
        return torch::stable::from_blob(m.data, {m.rows, m.cols}, {m.row_stride, m.col_stride}, cpu, dtype);
    }
    return torch::stable::from_blob(m.data, {m.batch, m.rows, m.cols}, {m.batch_stride, m.row_stride, m.col_stride},
                                    cpu, dtype);
}

// c = a b (+ start)
void multiply(const Strided& a, const Strided& b, const Strided* start, const Strided& c, ScalarType dtype) {
    const Tensor ta = blob(a, dtype), tb = blob(b, dtype), tc = blob(c, dtype);
    const bool batched = c.batch > 1;
    if (start == nullptr) {
        const auto multiplied = batched ? aoti_torch_cpu_bmm_out : aoti_torch_cpu_mm_out;
        TORCH_ERROR_CODE_CHECK(multiplied(tc.get(), ta.get(), tb.get()));
    } else {
        // One and the same tensor tells torch to accumulate in place.
        const Tensor from = start->data == c.data ? tc : blob(*start, dtype);
        const auto added = batched ? aoti_torch_cpu_baddbmm_out : aoti_torch_cpu_addmm_out;
        TORCH_ERROR_CODE_CHECK(added(tc.get(), from.get(), ta.get(), tb.get(), 1.0, 1.0));
    }
}

void product(const Strided& a, const Strided& b, const Strided& c, bool accumulate) {
    multiply(a, b, accumulate ? &c : nullptr, c, ScalarType::Float);
}

void product_bf16(const Strided& a, const Strided& b, const Strided* start, const Strided& c) {
    multiply(a, b, start, c, ScalarType::BFloat16);
}

constexpr linear::Blas kTorchBlas = {&product, &product_bf16};

Tensor scratch(int64_t rows, int64_t cols, ScalarType dtype) {
    return torch::stable::empty({rows, cols}, dtype, std::nullopt,
                                torch::stable::Device(torch::headeronly::DeviceType::CPU));
}

ScalarType scalar_type_of(DType dtype) {
    return dtype == DType::f16 ? ScalarType::Half : dtype == DType::bf16 ? ScalarType::BFloat16 : ScalarType::Float;
}

void product_of(const Problem& problem) { linear::cpu::gemm(problem, kTorchBlas, torch_parallel()); }

// a b + a2 b2: the first sum is kept in fp32 and added to the second one.
void sum_of_two(const Problem& p) {
    const Tensor first = scratch(p.a.rows, p.b.cols, ScalarType::Float);
    product_of({p.a, p.b, first.mutable_data_ptr(), DType::f32, p.b.cols, {}});
    const Matrix start{first.const_data_ptr(), DType::f32, p.a.rows, p.b.cols, p.b.cols, 1};
    Problem second{*p.a2, *p.b2, p.out, p.out_dtype, p.out_stride, p.epilogue};
    second.epilogue.c = &start;
    second.epilogue.beta = 1.0f;
    product_of(second);
}

// Both factors' inputs, rounded, then their product.
void gated(const Problem& p) {
    const linear::Epilogue& e = p.epilogue;
    const int64_t rows = p.a.rows, cols = p.b.cols;
    Tensor owners[2];
    void* factors[2] = {e.preact, e.preact2};
    for (int i = 0; i < 2; ++i) {
        if (factors[i] == nullptr) {
            owners[i] = scratch(rows, cols, scalar_type_of(p.out_dtype));
            factors[i] = owners[i].mutable_data_ptr();
        }
        linear::Epilogue only_bias;
        only_bias.bias = i == 0 ? e.bias : e.bias2;
        product_of({p.a, i == 0 ? p.b : *p.b2, factors[i], p.out_dtype, cols, only_bias});
    }
    pointwise::cpu::gate(e.activation, p.out_dtype, factors[0], factors[1], rows * cols, torch_parallel(), p.out);
}

// The CPU's engine takes one product at a time; what a kernel does besides is done here before and after it. Outputs
// are contiguous: the ops make them.
class CpuLinear {
  public:
    CpuLinear(const char*, const Tensor&) {}

    void gemm(const Problem& p) const {
        const linear::Epilogue& e = p.epilogue;
        p.a2 != nullptr ? sum_of_two(p) : p.b2 != nullptr ? gated(p) : product_of(p);
        const Matrix out{p.out, p.out_dtype, p.batch * p.a.rows, p.b.cols, p.out_stride, 1};
        if (e.column_sums != nullptr) column_sums(out, e.column_sums);
        if (e.column_sums2 != nullptr) {
            Matrix out2 = out;
            out2.data = e.out2;
            column_sums(out2, e.column_sums2);
        }
        if (e.stats != nullptr) {
            const scale::Span stored{p.out, out.rows * out.cols, p.out_dtype};
            float found_inf;
            double sum_of_squares;
            scale::cpu::grad_stats(&stored, 1, false, torch_parallel(), {&found_inf, &sum_of_squares, e.stats});
        }
    }

    void column_sums(const Matrix& m, void* sums) const {
        pointwise::cpu::column_sums(m.dtype, m.data, m.rows, m.cols, m.row_stride, torch_parallel(), sums);
    }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CPU, m) { register_linear<CpuLinear>(m); }

}  // namespace halfops::binding
