// What the linear ops of every device share: checks that are sentences, and tensors seen as matrices.
#pragma once

#include "binding/tensor.h"
#include "linear/linear.h"

namespace halfops::binding {

Activation activation_of(const std::string& name);

// A tensor [*, cols] as one matrix [rows, cols]; owns the copy that strides which do not collapse made necessary.
struct Rows {
    Tensor owner;
    linear::Matrix matrix;
};
Rows rows_of(const Tensor& tensor, const std::string& name);

// The last two dimensions; of a batch, its first matrix.
linear::Matrix matrix_of(const Tensor& tensor, const std::string& name);

linear::Matrix transposed(const linear::Matrix& m);

// The checks, each of which throws before anything is written.
void check_same_dtype(const Tensor& tensor, const Tensor& like, const std::string& name, const std::string& like_name);
void check_shape(const Tensor& tensor, const std::vector<int64_t>& wanted, const std::string& name,
                 const std::string& why);
void check_disjoint(const Tensor& target, const Tensor& source, const std::string& name,
                    const std::string& source_name);

Tensor new_empty(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like);  // on its device

std::vector<int64_t> shape_of(const Tensor& tensor);
std::vector<int64_t> with_last(const Tensor& tensor, int64_t size);  // its shape, but for the last dimension

// Validated operands of the ops, for whichever device runs them.
void check_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                  const std::string& weight_name = "weight", const std::string& bias_name = "bias");
void check_dgrad(const Tensor& grad_output, const Tensor& weight, const std::string& grad_name = "grad_output",
                 const std::string& weight_name = "weight");
// What meets the product of a dgrad element by element.
void check_like_grad_input(const Tensor& tensor, const std::string& name, const Tensor& grad_output,
                           const std::vector<int64_t>& shape);
void check_wgrad(const Tensor& grad_output, const Tensor& input);
void check_elementwise(const Tensor& tensor, const Tensor& like, const std::string& name, const std::string& like_name);

// matmul's batches: where each product of a broadcast batch begins, in elements.
struct Batches {
    std::vector<int64_t> shape;  // of the result, without its last two dimensions
    std::vector<int64_t> input, other;
};
Batches check_matmul(const Tensor& input, const Tensor& other, const std::optional<Tensor>& c, ScalarType out_dtype);

// What the CUDA half, where this build has one, says of its table of policies (linear.h); linear_cuda.cpp fills it in
// when the library is loaded.
struct Policies {
    std::vector<std::string> (*names)() = nullptr;
    void (*force)(const std::string& name, int64_t blocks) = nullptr;
    std::string (*last_plan)() = nullptr;
};
Policies& policies();

}  // namespace halfops::binding
