#pragma once

#include "binding/tensor.h"
#include "optim/optim.h"

namespace halfops::binding {

// The tensors of optim_step_ as its schema in library.cpp has them.
struct OptimLists {
    const std::vector<Tensor>&params, &grads, &masters, &states, &emas;
    const Tensor &steps, &rows, &hyper;
    const std::optional<Tensor>&grad_scale, &found_inf, &sum_of_squares;
};

optim::Rounding rounding_of(const std::string& name);

// The plain numbers of optim_step_.
struct OptimNumbers {
    std::optional<double> max_grad_norm, ema_decay;
    bool zero_grad;
};

// Checks everything that can be wrong, then gives one row a parameter. Scalars are checked, not read.
std::vector<optim::ParamTensor> param_tensors(const OptimLists& lists, const optim::RuleInfo& rule,
                                              const OptimNumbers& numbers);

// The share of the new weight in the moving average.
inline float ema_weight(const OptimNumbers& numbers) {
    return static_cast<float>(1.0 - numbers.ema_decay.value_or(1.0));
}

}  // namespace halfops::binding
