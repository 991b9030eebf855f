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

linear::Matrix transposed(const linear::Matrix& m);

// The checks, each of which throws before anything is written.
void check_same_dtype(const Tensor& tensor, const Tensor& like, const std::string& name, const std::string& like_name);
void check_shape(const Tensor& tensor, const std::vector<int64_t>& wanted, const std::string& name,
                 const std::string& why);
void check_disjoint(const Tensor& target, const Tensor& source, const std::string& name,
                    const std::string& source_name);

std::vector<int64_t> shape_of(const Tensor& tensor);
std::vector<int64_t> with_last(const Tensor& tensor, int64_t size);  // its shape, but for the last dimension

// Validated operands of the ops, for whichever device runs them.
void check_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                  const std::string& weight_name = "weight", const std::string& bias_name = "bias");
void check_dgrad(const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& preact);
void check_wgrad(const Tensor& grad_output, const Tensor& input);
void check_elementwise(const Tensor& tensor, const Tensor& like, const std::string& name, const std::string& like_name);

// matmul's batches: where each product of a broadcast batch begins, in elements.
struct Batches {
    std::vector<int64_t> shape;  // of the result, without its last two dimensions
    std::vector<int64_t> input, other;
};
Batches check_matmul(const Tensor& input, const Tensor& other, const std::optional<Tensor>& c, ScalarType out_dtype);

}  // namespace halfops::binding
