// Whether a step happens at all, and what its gradients are multiplied by. On the device in a CUDA step: no one waits.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace halfops::optim {

struct Gate {
    bool open;
    double grad_factor;
};

// inv_scale * clip, clip = min(1, max_grad_norm / (norm + 1e-6)) with the norm of the unscaled gradients, as in torch's
// clip_grad_norm_. Closed if an overflow was found, or if the factor or the norm is infinite or NaN.
HALFOPS_HD Gate gate(double grad_scale, double found_inf, double sum_of_squares, double max_grad_norm) {
    const double inv_scale = 1.0 / grad_scale;
    const double clip = max_grad_norm / (sqrt(sum_of_squares) * inv_scale + 1e-6);
    const double factor = clip >= 1.0 ? inv_scale : inv_scale * clip;  // a NaN of any of them ends up here
    // x - x is 0 for finite x only.
    const bool finite = factor - factor == 0.0 && sum_of_squares - sum_of_squares == 0.0;
    return {found_inf == 0.0 && finite, factor};
}

// The same from where a step has them; null stands for 1, for 0, for 0.
struct GateInputs {
    const float *grad_scale, *found_inf;
    const double* sum_of_squares;
    double max_grad_norm;
};

HALFOPS_HD Gate gate(const GateInputs& inputs) {
    return gate(inputs.grad_scale != nullptr ? *inputs.grad_scale : 1.0f,
                inputs.found_inf != nullptr ? *inputs.found_inf : 0.0f,
                inputs.sum_of_squares != nullptr ? *inputs.sum_of_squares : 0.0, inputs.max_grad_norm);
}

}  // namespace halfops::optim
