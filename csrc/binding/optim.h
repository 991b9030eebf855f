// What the optim ops share: checks that are sentences, and tensors as the rows of a step.
//
// Two ops take parameters: optim_step_, with everything in one call, and optim_plan, which keeps what does not depend
// on gradients for many steps. So the checks come in the same three parts: tensors, gradients, numbers of a step.
#pragma once

#include <tuple>

#include "binding/tensor.h"
#include "optim/optim.h"

namespace halfops::binding {

// The order of elements in memory: an op takes contiguous tensors, a plan whatever is dense, if it is the parameter's.
enum class Order { contiguous, as_parameter };

// The tensors of a step without gradients, as the schemas in library.cpp have them.
struct OptimLists {
    const std::vector<Tensor>&params, &masters, &states, &emas;
    const Tensor &steps, &rows;
};

// What is new in every step, but for gradients.
struct OptimNumbers {
    const std::optional<Tensor>&grad_scale, &found_inf, &sum_of_squares;
    std::optional<double> max_grad_norm, ema_decay;
    bool zero_grad;
};

optim::Rounding rounding_of(const std::string& name);

// One row a parameter, checked; grad and hyper are null.
std::vector<optim::ParamTensor> param_tensors(const OptimLists& lists, const optim::RuleInfo& rule, Order order);
void check_gradient(const Tensor& grad, const Tensor& param, int64_t index, const Tensor& first, Order order);
// Only what an op writes must be apart, so gradients may share memory unless they become zeros.
void check_disjoint(const std::vector<optim::ParamTensor>& tensors, size_t state_count, bool zero_grad);

void check_hyper(const Tensor& hyper, const optim::RuleInfo& rule, const Tensor& first);
// Points each tensor at its row of a checked hyper.
void set_hyper(std::vector<optim::ParamTensor>& tensors, const Tensor& hyper, const Tensor& rows);
void check_numbers(const OptimNumbers& numbers, const OptimLists& lists);
// A step of checked tensors.
optim::Step make_step(const std::vector<optim::ParamTensor>& tensors, int rule, optim::Rounding rounding, int64_t seed,
                      const OptimNumbers& numbers);

// All of it for optim_step_, whatever the device.
std::vector<optim::ParamTensor> step_tensors(const OptimLists& lists, const std::vector<Tensor>& grads,
                                             const Tensor& hyper, const OptimNumbers& numbers,
                                             const optim::RuleInfo& rule);

void check_dtype(const Tensor& tensor, ScalarType wanted, const Place& place);
// Same sizes, and elements in the same order in memory.
bool same_shape(const Tensor& a, const Tensor& b);
bool same_order(const Tensor& a, const Tensor& b);

// For write_: values are on the CPU, and fit.
void check_write(const Tensor& target, const Tensor& values);

// Conversions, whatever the device: the checks, and empty results of the input's shape and device.
DType dtype_from(ScalarType dtype);
Tensor empty_with(const Tensor& tensor, ScalarType dtype);
std::tuple<Tensor, Tensor> empty_split(const Tensor& master, ScalarType dtype);  // weight, remainder
Tensor empty_join(const Tensor& weight, const Tensor& remainder);
optim::cpu::Cast checked_cast(const Tensor& input, ScalarType dtype, const std::string& rounding, int64_t seed,
                              int64_t step, int64_t key);

}  // namespace halfops::binding
