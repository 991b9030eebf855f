// LAMB (You et al. 2020): Adam's direction, and a step whose length is a share of the tensor's own norm.
//
//   r = m^ / (sqrt(v^) + eps) + weight_decay w         trust = |w| / |r|, 1 if either is 0         w = w - lr trust r
//
// Two passes: `measure` moves the moments and gives r, whose norm the engine takes; `apply` forms the same r again from
// what was stored, now that the trust ratio is known.
#pragma once

#include <cmath>

#include "core/macros.h"
#include "math/lerp.h"
#include "math/powi.h"

namespace halfops::update {

struct Lamb {
    static constexpr const char* kName = "lamb";
    static constexpr const char* kHyperNames[] = {"lr", "beta1", "beta2", "eps", "weight_decay", "maximize"};
    static constexpr const char* kStateNames[] = {"exp_avg", "exp_avg_sq"};
    static constexpr int kStates = 2;
    static constexpr bool kNeedsNorms = true;

    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay, maximize;
    };

    struct Scalars {
        float grad, one_minus_beta1, beta2, one_minus_beta2, inv_correction1, inv_sqrt_correction2, eps, weight_decay;
        double lr;
        float lr_trust;
    };

    static HALFOPS_HD Scalars prepare(const Hyper& hyper, int64_t step, double grad_factor) {
        Scalars s;
        s.grad = static_cast<float>(hyper.maximize != 0.0 ? -grad_factor : grad_factor);
        s.one_minus_beta1 = static_cast<float>(1.0 - hyper.beta1);
        s.beta2 = static_cast<float>(hyper.beta2);
        s.one_minus_beta2 = static_cast<float>(1.0 - hyper.beta2);
        s.inv_correction1 = static_cast<float>(1.0 / (1.0 - powi(hyper.beta1, step)));
        s.inv_sqrt_correction2 = static_cast<float>(1.0 / sqrt(1.0 - powi(hyper.beta2, step)));
        s.eps = static_cast<float>(hyper.eps);
        s.weight_decay = static_cast<float>(hyper.weight_decay);
        s.lr = hyper.lr;
        s.lr_trust = 0.0f;
        return s;
    }

    static HALFOPS_HD float direction(const Scalars& s, float w, const float (&state)[2]) {
        const float adam = state[0] * s.inv_correction1 / (sqrtf(state[1]) * s.inv_sqrt_correction2 + s.eps);
        return adam + s.weight_decay * w;
    }

    static HALFOPS_HD float measure(const Scalars& s, float grad, float w, float (&state)[2]) {
        const float g = grad * s.grad;
        state[0] = lerp(state[0], g, s.one_minus_beta1);
        state[1] = s.beta2 * state[1] + s.one_minus_beta2 * (g * g);
        return direction(s, w, state);
    }

    // The squares of the norms of w and r over the whole tensor.
    static HALFOPS_HD Scalars with_norms(Scalars s, double weight_sq, double direction_sq) {
        const bool usable = weight_sq > 0.0 && direction_sq > 0.0;
        s.lr_trust = static_cast<float>(usable ? s.lr * (sqrt(weight_sq) / sqrt(direction_sq)) : s.lr);
        return s;
    }

    static HALFOPS_HD float apply(const Scalars& s, float /*grad*/, float w, float (&state)[2]) {
        return w - s.lr_trust * direction(s, w, state);
    }
};

}  // namespace halfops::update
