// The linear and pointwise ops on CPU tensors.
#include "binding/linear.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <tuple>

#include "pointwise/pointwise.h"

namespace halfops::binding {
namespace {

using linear::Matrix;
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

Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like) {
    return torch::stable::empty(shape, dtype, std::nullopt, like.device());
}

Tensor nothing(const Tensor& like) { return empty({0}, like.scalar_type(), like); }

// The last two dimensions; of a batch, its first matrix.
Matrix matrix_of(const Tensor& t, const std::string& name) {
    const int64_t d = t.dim() - 2, rows = t.size(d), cols = t.size(d + 1);
    const int64_t row_stride = rows == 1 ? cols : t.stride(d), col_stride = cols == 1 ? 1 : t.stride(d + 1);
    return {t.const_data_ptr(), dtype_of(t, name), rows, cols, row_stride, col_stride};
}

// out [M, N] contiguous = epilogue(a b)
void gemm(const Matrix& a, const Matrix& b, Tensor& out, const linear::Epilogue& epilogue) {
    linear::cpu::gemm({a, b, out.mutable_data_ptr(), dtype_of(out, "output"), b.cols, epilogue}, kTorchBlas,
                      torch_parallel());
}

std::tuple<Tensor, Tensor> linear_forward(Tensor input, Tensor weight, std::optional<Tensor> bias,
                                          std::optional<Tensor> residual, std::string activation, bool save_preact) {
    linear::Epilogue epilogue;
    epilogue.activation = activation_of(activation);
    check_linear(input, weight, bias);
    const std::vector<int64_t> shape = with_last(input, weight.size(0));
    Rows added;
    if (residual.has_value()) {
        check_same_device(*residual, input, "residual", "input");
        check_same_dtype(*residual, input, "residual", "input");
        check_shape(*residual, shape, "residual", "the shape of the output");
        added = rows_of(*residual, "residual");
        epilogue.c = &added.matrix;
        epilogue.beta = 1.0f;
    }
    const Tensor bias_row = bias.has_value() ? torch::stable::contiguous(*bias) : Tensor();
    if (bias.has_value()) epilogue.bias = bias_row.const_data_ptr();
    Tensor output = empty(shape, input.scalar_type(), input);
    Tensor preact = save_preact ? empty(shape, input.scalar_type(), input) : nothing(input);
    if (save_preact) epilogue.preact = preact.mutable_data_ptr();
    const Rows x = rows_of(input, "input");
    gemm(x.matrix, transposed(matrix_of(weight, "weight")), output, epilogue);
    return {output, preact};
}

Tensor linear_dgrad(Tensor grad_output, Tensor weight, std::optional<Tensor> preact, std::string activation) {
    linear::Epilogue epilogue;
    epilogue.activation = activation_of(activation);
    check_dgrad(grad_output, weight, preact);
    check(preact.has_value() || epilogue.activation == Activation::none, "preact: got None with activation '",
          activation, "', wanted the pre-activation that its derivative is taken at");
    Rows z;
    if (preact.has_value()) {
        z = rows_of(*preact, "preact");
        if (epilogue.activation != Activation::none) epilogue.grad_preact = &z.matrix;
    }
    Tensor grad_input = empty(with_last(grad_output, weight.size(1)), grad_output.scalar_type(), grad_output);
    const Rows dz = rows_of(grad_output, "grad_output");
    gemm(dz.matrix, matrix_of(weight, "weight"), grad_input, epilogue);
    return grad_input;
}

std::tuple<Tensor, Tensor> linear_wgrad(Tensor grad_output, Tensor input, std::optional<Tensor> accumulate,
                                        bool want_weight, bool want_bias) {
    check_wgrad(grad_output, input);
    const int64_t outer = grad_output.size(grad_output.dim() - 1), inner = input.size(input.dim() - 1);
    linear::Epilogue epilogue;
    Matrix old{};
    ScalarType dtype = input.scalar_type();
    if (accumulate.has_value()) {
        check_same_device(*accumulate, input, "accumulate", "input");
        dtype_of(*accumulate, "accumulate");
        check_shape(*accumulate, {outer, inner}, "accumulate", "[out_features, in_features]");
        dtype = accumulate->scalar_type();
        old = matrix_of(*accumulate, "accumulate");
        epilogue.c = &old;
        epilogue.beta = 1.0f;
    }
    Rows dz = rows_of(grad_output, "grad_output");
    Tensor grad_weight = want_weight ? empty({outer, inner}, dtype, input) : nothing(input);
    if (want_weight) {
        const Rows x = rows_of(input, "input");
        gemm(transposed(dz.matrix), x.matrix, grad_weight, epilogue);
    }
    Tensor grad_bias = want_bias ? empty({outer}, input.scalar_type(), input) : nothing(input);
    if (want_bias) {
        if (dz.matrix.col_stride != 1) dz = rows_of(torch::stable::contiguous(grad_output), "grad_output");
        pointwise::cpu::column_sums(dz.matrix.dtype, dz.matrix.data, dz.matrix.rows, dz.matrix.cols,
                                    dz.matrix.row_stride, torch_parallel(), grad_bias.mutable_data_ptr());
    }
    return {grad_weight, grad_bias};
}

void linear_wgrad_(Tensor grad_weight, Tensor grad_output, Tensor input) {
    check_wgrad(grad_output, input);
    dtype_of(grad_weight, "grad_weight");
    check_same_device(grad_weight, input, "grad_weight", "input");
    check_shape(grad_weight, {grad_output.size(grad_output.dim() - 1), input.size(input.dim() - 1)}, "grad_weight",
                "[out_features, in_features]");
    check_contiguous(grad_weight, "grad_weight");
    check_disjoint(grad_weight, grad_output, "grad_weight", "grad_output");
    check_disjoint(grad_weight, input, "grad_weight", "input");
    const Matrix old = matrix_of(grad_weight, "grad_weight");
    linear::Epilogue epilogue;
    epilogue.c = &old;
    epilogue.beta = 1.0f;
    const Rows dz = rows_of(grad_output, "grad_output"), x = rows_of(input, "input");
    gemm(transposed(dz.matrix), x.matrix, grad_weight, epilogue);
}

std::tuple<Tensor, Tensor, Tensor> gated_linear(Tensor input, Tensor gate_weight, Tensor up_weight,
                                                std::optional<Tensor> gate_bias, std::optional<Tensor> up_bias,
                                                std::string activation, bool save_preact) {
    const Activation which = activation_of(activation);
    check_linear(input, gate_weight, gate_bias, "gate_weight", "gate_bias");
    check_linear(input, up_weight, up_bias, "up_weight", "up_bias");
    check_shape(up_weight, shape_of(gate_weight), "up_weight", "the shape of gate_weight");
    const Tensor gate = std::get<0>(linear_forward(input, gate_weight, gate_bias, std::nullopt, "none", false));
    const Tensor up = std::get<0>(linear_forward(input, up_weight, up_bias, std::nullopt, "none", false));
    Tensor output = empty(shape_of(gate), input.scalar_type(), input);
    pointwise::cpu::gate(which, dtype_of(output, "output"), gate.const_data_ptr(), up.const_data_ptr(), output.numel(),
                         torch_parallel(), output.mutable_data_ptr());
    if (!save_preact) return {output, nothing(input), nothing(input)};
    return {output, gate, up};
}

Tensor activation_forward(Tensor preact, std::string activation) {
    const Activation which = activation_of(activation);
    const DType dtype = dtype_of(preact, "preact");
    const Tensor z = torch::stable::contiguous(preact);
    Tensor output = empty(shape_of(z), z.scalar_type(), z);
    pointwise::cpu::activate(which, dtype, z.const_data_ptr(), z.numel(), torch_parallel(), output.mutable_data_ptr());
    return output;
}

Tensor activation_backward(Tensor grad_output, Tensor preact, std::string activation) {
    const Activation which = activation_of(activation);
    const DType dtype = dtype_of(grad_output, "grad_output");
    check_elementwise(preact, grad_output, "preact", "grad_output");
    const Tensor dy = torch::stable::contiguous(grad_output), z = torch::stable::contiguous(preact);
    Tensor grad = empty(shape_of(z), z.scalar_type(), z);
    pointwise::cpu::activate_backward(which, dtype, dy.const_data_ptr(), z.const_data_ptr(), z.numel(),
                                      torch_parallel(), grad.mutable_data_ptr());
    return grad;
}

Tensor gated_activation(Tensor gate, Tensor up, std::string activation) {
    const Activation which = activation_of(activation);
    const DType dtype = dtype_of(gate, "gate");
    check_elementwise(up, gate, "up", "gate");
    const Tensor g = torch::stable::contiguous(gate), u = torch::stable::contiguous(up);
    Tensor output = empty(shape_of(g), g.scalar_type(), g);
    pointwise::cpu::gate(which, dtype, g.const_data_ptr(), u.const_data_ptr(), g.numel(), torch_parallel(),
                         output.mutable_data_ptr());
    return output;
}

std::tuple<Tensor, Tensor> gated_activation_backward(Tensor grad_output, Tensor gate, Tensor up,
                                                     std::string activation) {
    const Activation which = activation_of(activation);
    const DType dtype = dtype_of(grad_output, "grad_output");
    check_elementwise(gate, grad_output, "gate", "grad_output");
    check_elementwise(up, grad_output, "up", "grad_output");
    const Tensor dh = torch::stable::contiguous(grad_output);
    const Tensor g = torch::stable::contiguous(gate), u = torch::stable::contiguous(up);
    Tensor grad_gate = empty(shape_of(g), g.scalar_type(), g);
    Tensor grad_up = empty(shape_of(g), g.scalar_type(), g);
    pointwise::cpu::gate_backward(which, dtype, dh.const_data_ptr(), g.const_data_ptr(), u.const_data_ptr(), g.numel(),
                                  torch_parallel(), grad_gate.mutable_data_ptr(), grad_up.mutable_data_ptr());
    return {grad_gate, grad_up};
}

Tensor matmul(Tensor input, Tensor other, std::optional<Tensor> c, double alpha, double beta,
              std::optional<ScalarType> out_dtype) {
    const ScalarType result = out_dtype.value_or(input.scalar_type());
    const Batches batches = check_matmul(input, other, c, result);
    check(c.has_value() || beta == 0.0, "c: got None with beta ", beta, ", wanted a tensor; or pass beta=0");
    const int64_t rows = input.size(input.dim() - 2), cols = other.size(other.dim() - 1);
    std::vector<int64_t> shape = batches.shape;
    shape.push_back(rows);
    shape.push_back(cols);
    Tensor output = empty(shape, result, input);
    if (output.numel() == 0) return output;

    const bool adds = c.has_value() && beta != 0.0;
    const Tensor added = adds ? torch::stable::contiguous(*c) : Tensor();
    linear::Epilogue epilogue;
    epilogue.alpha = static_cast<float>(alpha);
    epilogue.beta = static_cast<float>(beta);
    Matrix old{};
    if (adds) {
        old = {added.const_data_ptr(), dtype_of(added, "c"), output.numel() / cols, cols, cols, 1};
        epilogue.c = &old;
    }
    // Rows of a batch that meet one and the same matrix are rows of one product.
    if (other.dim() == 2) {
        gemm(rows_of(input, "input").matrix, matrix_of(other, "other"), output, epilogue);
        return output;
    }
    linear::cpu::gemm(
        {matrix_of(input, "input"), matrix_of(other, "other"), output.mutable_data_ptr(), dtype_of(output, "output"),
         cols, epilogue, static_cast<int64_t>(batches.input.size()), batches.input.data(), batches.other.data()},
        kTorchBlas, torch_parallel());
    return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CPU, m) {
    m.impl("linear", TORCH_BOX(&linear_forward));
    m.impl("linear_dgrad", TORCH_BOX(&linear_dgrad));
    m.impl("linear_wgrad", TORCH_BOX(&linear_wgrad));
    m.impl("linear_wgrad_", TORCH_BOX(&linear_wgrad_));
    m.impl("gated_linear", TORCH_BOX(&gated_linear));
    m.impl("activation", TORCH_BOX(&activation_forward));
    m.impl("activation_backward", TORCH_BOX(&activation_backward));
    m.impl("gated_activation", TORCH_BOX(&gated_activation));
    m.impl("gated_activation_backward", TORCH_BOX(&gated_activation_backward));
    m.impl("matmul", TORCH_BOX(&matmul));
}

}  // namespace halfops::binding
