#pragma once

#include "binding/tensor.h"
#include "optim/optim.h"

namespace halfops::binding {

// The tensors of optim_step_ as its schema in library.cpp has them.
struct OptimLists {
    const std::vector<Tensor>&params, &grads, &masters, &states;
    const Tensor &steps, &rows, &hyper;
    const std::optional<Tensor>&grad_scale, &found_inf, &sum_of_squares;
};

optim::Rounding rounding_of(const std::string& name);

// Checks everything that can be wrong, then gives one row a parameter. Scalars are checked, not read.
std::vector<optim::ParamTensor> param_tensors(const OptimLists& lists, const optim::RuleInfo& rule, bool wants_norm);

}  // namespace halfops::binding
