// The linear ops, one body for every device: checks, outputs, and the problem that an op is.
//
// `Engine` runs on one device: Engine(op, a tensor there), gemm(problem), column_sums(matrix with unit column stride,
// sums). It is made after the checks and before anything is allocated.
#pragma once

#include <tuple>

#include "binding/linear.h"

namespace halfops::binding {

// [0] of a dtype: what was not asked for.
inline Tensor nothing(const Tensor& like) { return new_empty({0}, like.scalar_type(), like); }

template <class Engine>
struct LinearOps {
    using Matrix = linear::Matrix;
    using Epilogue = linear::Epilogue;
    using Problem = linear::Problem;

    // The problem whose output is all of `out`, contiguous.
    static Problem problem(const Matrix& a, const Matrix& b, Tensor& out, const Epilogue& epilogue) {
        return {a, b, out.mutable_data_ptr(), dtype_of(out, "output"), b.cols, epilogue};
    }

    // Where the optional output `count` goes, and the pointer for the epilogue.
    static Tensor sums(bool wanted, int64_t count, const Tensor& like, void** pointer) {
        if (!wanted) return nothing(like);
        Tensor result = new_empty({count}, like.scalar_type(), like);
        *pointer = result.mutable_data_ptr();
        return result;
    }

    static Tensor stats(bool wanted, const Tensor& like, double** pointer) {
        Tensor result = new_empty({wanted ? 3 : 0}, ScalarType::Double, like);
        if (wanted) *pointer = static_cast<double*>(result.mutable_data_ptr());
        return result;
    }

    // A bias as the epilogue reads it; `owner` keeps it.
    static const void* row_of(const std::optional<Tensor>& bias, Tensor* owner) {
        if (!bias.has_value()) return nullptr;
        *owner = torch::stable::contiguous(*bias);
        return owner->const_data_ptr();
    }

    static std::tuple<Tensor, Tensor> linear(Tensor input, Tensor weight, std::optional<Tensor> bias,
                                             std::optional<Tensor> residual, std::string activation, bool save_preact) {
        Epilogue epilogue;
        epilogue.activation = activation_of(activation);
        check_linear(input, weight, bias);
        const std::vector<int64_t> shape = with_last(input, weight.size(0));
        if (residual.has_value()) {
            check_same_device(*residual, input, "residual", "input");
            check_same_dtype(*residual, input, "residual", "input");
            check_shape(*residual, shape, "residual", "the shape of the output");
        }
        const Engine engine("linear", input);
        Rows added;
        if (residual.has_value()) {
            added = rows_of(*residual, "residual");
            epilogue.c = &added.matrix;
            epilogue.beta = 1.0f;
        }
        Tensor bias_row;
        epilogue.bias = row_of(bias, &bias_row);
        Tensor output = new_empty(shape, input.scalar_type(), input);
        Tensor preact = save_preact ? new_empty(shape, input.scalar_type(), input) : nothing(input);
        if (save_preact) epilogue.preact = preact.mutable_data_ptr();
        const Rows x = rows_of(input, "input");
        engine.gemm(problem(x.matrix, transposed(matrix_of(weight, "weight")), output, epilogue));
        return {output, preact};
    }

    static std::tuple<Tensor, Tensor> linear_dgrad(Tensor grad_output, Tensor weight, std::optional<Tensor> preact,
                                                   std::string activation, bool want_bias) {
        Epilogue epilogue;
        epilogue.activation = activation_of(activation);
        check_dgrad(grad_output, weight);
        const std::vector<int64_t> shape = with_last(grad_output, weight.size(1));
        if (preact.has_value()) check_like_grad_input(*preact, "preact", grad_output, shape);
        check(preact.has_value() || epilogue.activation == Activation::none, "preact: got None with activation '",
              activation, "', wanted the pre-activation that its derivative is taken at");
        const Engine engine("linear_dgrad", grad_output);
        Rows z;
        if (preact.has_value() && epilogue.activation != Activation::none) {
            z = rows_of(*preact, "preact");
            epilogue.grad_preact = &z.matrix;
        }
        Tensor grad_input = new_empty(shape, grad_output.scalar_type(), grad_output);
        Tensor grad_bias = sums(want_bias, weight.size(1), grad_output, &epilogue.column_sums);
        const Rows dz = rows_of(grad_output, "grad_output");
        engine.gemm(problem(dz.matrix, matrix_of(weight, "weight"), grad_input, epilogue));
        return {grad_input, grad_bias};
    }

    static std::tuple<Tensor, Tensor, Tensor> linear_wgrad(Tensor grad_output, Tensor input,
                                                           std::optional<Tensor> accumulate, bool want_weight,
                                                           bool want_bias, bool want_stats) {
        check_wgrad(grad_output, input);
        check(want_weight || !want_stats,
              "want_stats: got True without want_weight, wanted a gradient that the statistics are of");
        const int64_t outer = grad_output.size(grad_output.dim() - 1), inner = input.size(input.dim() - 1);
        if (accumulate.has_value()) {
            check_same_device(*accumulate, input, "accumulate", "input");
            dtype_of(*accumulate, "accumulate");
            check_shape(*accumulate, {outer, inner}, "accumulate", "[out_features, in_features]");
        }
        const Engine engine("linear_wgrad", input);
        Epilogue epilogue;
        Matrix old{};
        ScalarType dtype = input.scalar_type();
        if (accumulate.has_value()) {
            dtype = accumulate->scalar_type();
            old = matrix_of(*accumulate, "accumulate");
            epilogue.c = &old;
            epilogue.beta = 1.0f;
        }
        Rows dz = rows_of(grad_output, "grad_output");
        const std::vector<int64_t> shape = want_weight ? std::vector<int64_t>{outer, inner} : std::vector<int64_t>{0};
        Tensor grad_weight = new_empty(shape, dtype, input);
        Tensor left = stats(want_stats, input, &epilogue.stats);
        if (want_weight) {
            const Rows x = rows_of(input, "input");
            engine.gemm(problem(transposed(dz.matrix), x.matrix, grad_weight, epilogue));
        }
        void* bias = nullptr;
        Tensor grad_bias = sums(want_bias, outer, input, &bias);
        if (want_bias) {
            if (dz.matrix.col_stride != 1) dz = rows_of(torch::stable::contiguous(grad_output), "grad_output");
            engine.column_sums(dz.matrix, bias);
        }
        return {grad_weight, grad_bias, left};
    }

    static Tensor linear_wgrad_(Tensor grad_weight, Tensor grad_output, Tensor input, bool want_stats) {
        check_wgrad(grad_output, input);
        dtype_of(grad_weight, "grad_weight");
        check_same_device(grad_weight, input, "grad_weight", "input");
        check_shape(grad_weight, {grad_output.size(grad_output.dim() - 1), input.size(input.dim() - 1)}, "grad_weight",
                    "[out_features, in_features]");
        check_contiguous(grad_weight, "grad_weight");
        check_disjoint(grad_weight, grad_output, "grad_weight", "grad_output");
        check_disjoint(grad_weight, input, "grad_weight", "input");
        const Engine engine("linear_wgrad_", input);
        const Matrix old = matrix_of(grad_weight, "grad_weight");
        Epilogue epilogue;
        epilogue.c = &old;
        epilogue.beta = 1.0f;
        Tensor left = stats(want_stats, input, &epilogue.stats);
        const Rows dz = rows_of(grad_output, "grad_output"), x = rows_of(input, "input");
        engine.gemm(problem(transposed(dz.matrix), x.matrix, grad_weight, epilogue));
        return left;
    }

    static std::tuple<Tensor, Tensor, Tensor> gated_linear(Tensor input, Tensor gate_weight, Tensor up_weight,
                                                           std::optional<Tensor> gate_bias,
                                                           std::optional<Tensor> up_bias, std::string activation,
                                                           bool save_preact) {
        Epilogue epilogue;
        epilogue.activation = activation_of(activation);
        check_linear(input, gate_weight, gate_bias, "gate_weight", "gate_bias");
        check_linear(input, up_weight, up_bias, "up_weight", "up_bias");
        check_shape(up_weight, shape_of(gate_weight), "up_weight", "the shape of gate_weight");
        const Engine engine("gated_linear", input);
        Tensor gate_row, up_row;
        epilogue.bias = row_of(gate_bias, &gate_row);
        epilogue.bias2 = row_of(up_bias, &up_row);
        const std::vector<int64_t> shape = with_last(input, gate_weight.size(0));
        const std::vector<int64_t> saved = save_preact ? shape : std::vector<int64_t>{0};
        Tensor output = new_empty(shape, input.scalar_type(), input);
        Tensor gate = new_empty(saved, input.scalar_type(), input), up = new_empty(saved, input.scalar_type(), input);
        if (save_preact) {
            epilogue.preact = gate.mutable_data_ptr();
            epilogue.preact2 = up.mutable_data_ptr();
        }
        const Rows x = rows_of(input, "input");
        const Matrix up_matrix = transposed(matrix_of(up_weight, "up_weight"));
        Problem both = problem(x.matrix, transposed(matrix_of(gate_weight, "gate_weight")), output, epilogue);
        both.b2 = &up_matrix;
        engine.gemm(both);
        return {output, gate, up};
    }

    static Tensor gated_linear_dgrad(Tensor grad_gate, Tensor grad_up, Tensor gate_weight, Tensor up_weight) {
        check_dgrad(grad_gate, gate_weight, "grad_gate", "gate_weight");
        check_elementwise(grad_up, grad_gate, "grad_up", "grad_gate");
        check_elementwise(up_weight, gate_weight, "up_weight", "gate_weight");
        const Engine engine("gated_linear_dgrad", grad_gate);
        Tensor grad_input = new_empty(with_last(grad_gate, gate_weight.size(1)), grad_gate.scalar_type(), grad_gate);
        const Rows first = rows_of(grad_gate, "grad_gate"), second = rows_of(grad_up, "grad_up");
        const Matrix up_matrix = matrix_of(up_weight, "up_weight");
        Problem both = problem(first.matrix, matrix_of(gate_weight, "gate_weight"), grad_input, Epilogue{});
        both.a2 = &second.matrix;
        both.b2 = &up_matrix;
        engine.gemm(both);
        return grad_input;
    }

    static std::tuple<Tensor, Tensor, Tensor, Tensor> gated_dgrad(Tensor grad_output, Tensor weight, Tensor gate,
                                                                  Tensor up, std::string activation, bool want_bias) {
        Epilogue epilogue;
        epilogue.activation = activation_of(activation);
        check_dgrad(grad_output, weight);
        const std::vector<int64_t> shape = with_last(grad_output, weight.size(1));
        check_like_grad_input(gate, "gate", grad_output, shape);
        check_like_grad_input(up, "up", grad_output, shape);
        const Engine engine("gated_dgrad", grad_output);
        const Rows z = rows_of(gate, "gate"), factor = rows_of(up, "up");
        epilogue.grad_preact = &z.matrix;
        epilogue.grad_up = &factor.matrix;
        Tensor grad_gate = new_empty(shape, grad_output.scalar_type(), grad_output);
        Tensor grad_up = new_empty(shape, grad_output.scalar_type(), grad_output);
        epilogue.out2 = grad_up.mutable_data_ptr();
        Tensor gate_bias = sums(want_bias, weight.size(1), grad_output, &epilogue.column_sums);
        Tensor up_bias = sums(want_bias, weight.size(1), grad_output, &epilogue.column_sums2);
        const Rows dy = rows_of(grad_output, "grad_output");
        engine.gemm(problem(dy.matrix, matrix_of(weight, "weight"), grad_gate, epilogue));
        return {grad_gate, grad_up, gate_bias, up_bias};
    }

    static Tensor matmul(Tensor input, Tensor other, std::optional<Tensor> c, double alpha, double beta,
                         std::optional<ScalarType> out_dtype) {
        const ScalarType result = out_dtype.value_or(input.scalar_type());
        const Batches batches = check_matmul(input, other, c, result);
        check(c.has_value() || beta == 0.0, "c: got None with beta ", beta, ", wanted a tensor; or pass beta=0");
        const Engine engine("matmul", input);
        const int64_t rows = input.size(input.dim() - 2), cols = other.size(other.dim() - 1);
        std::vector<int64_t> shape = batches.shape;
        shape.push_back(rows);
        shape.push_back(cols);
        Tensor output = new_empty(shape, result, input);
        if (output.numel() == 0) return output;

        const bool adds = c.has_value() && beta != 0.0;
        const Tensor added = adds ? torch::stable::contiguous(*c) : Tensor();
        Epilogue epilogue;
        epilogue.alpha = static_cast<float>(alpha);
        epilogue.beta = static_cast<float>(beta);
        Matrix old{};
        if (adds) {
            old = {added.const_data_ptr(), dtype_of(added, "c"), output.numel() / cols, cols, cols, 1};
            epilogue.c = &old;
        }
        const Matrix b = matrix_of(other, "other");
        // Rows of a batch that meet one and the same matrix are rows of one product.
        if (other.dim() == 2) {
            const Rows a = rows_of(input, "input");
            engine.gemm(problem(a.matrix, b, output, epilogue));
            return output;
        }
        Problem all = problem(matrix_of(input, "input"), b, output, epilogue);
        all.batch = static_cast<int64_t>(batches.input.size());
        all.a_offsets = batches.input.data();
        all.b_offsets = batches.other.data();
        engine.gemm(all);
        return output;
    }
};

template <class Engine, class Library>
void register_linear(Library& m) {
    using Ops = LinearOps<Engine>;
    m.impl("linear", TORCH_BOX(&Ops::linear));
    m.impl("linear_dgrad", TORCH_BOX(&Ops::linear_dgrad));
    m.impl("linear_wgrad", TORCH_BOX(&Ops::linear_wgrad));
    m.impl("linear_wgrad_", TORCH_BOX(&Ops::linear_wgrad_));
    m.impl("gated_linear", TORCH_BOX(&Ops::gated_linear));
    m.impl("gated_linear_dgrad", TORCH_BOX(&Ops::gated_linear_dgrad));
    m.impl("gated_dgrad", TORCH_BOX(&Ops::gated_dgrad));
    m.impl("matmul", TORCH_BOX(&Ops::matmul));
}

}  // namespace halfops::binding
