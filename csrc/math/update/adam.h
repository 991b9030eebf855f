// AdamW (decoupled weight decay) and Adam (weight decay added to the gradient), as in torch.optim.
//
//   m = lerp(m, g, 1 - beta1)               v = beta2 v + (1 - beta2) g^2
//   w = w - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
#pragma once

#include <cmath>

#include "core/macros.h"
#include "math/lerp.h"
#include "math/powi.h"

namespace halfops::update {

template <bool kDecoupled>
struct AdamRule {
    static constexpr const char* kName = kDecoupled ? "adamw" : "adam";
    static constexpr const char* kHyperNames[] = {"lr", "beta1", "beta2", "eps", "weight_decay", "maximize"};
    static constexpr const char* kStateNames[] = {"exp_avg", "exp_avg_sq"};
    static constexpr int kStates = 2;

    struct Hyper {
        double lr, beta1, beta2, eps, weight_decay, maximize;
    };

    struct Scalars {
        float grad, one_minus_beta1, beta2, one_minus_beta2, step_size, inv_sqrt_correction, eps;
        float decay;  // decoupled: the factor of w; coupled: the factor of w in the gradient
    };

    static HALFOPS_HD Scalars prepare(const Hyper& hyper, int64_t step, double grad_factor) {
        Scalars s;
        s.grad = static_cast<float>(hyper.maximize != 0.0 ? -grad_factor : grad_factor);
        s.one_minus_beta1 = static_cast<float>(1.0 - hyper.beta1);
        s.beta2 = static_cast<float>(hyper.beta2);
        s.one_minus_beta2 = static_cast<float>(1.0 - hyper.beta2);
        s.step_size = static_cast<float>(hyper.lr / (1.0 - powi(hyper.beta1, step)));
        s.inv_sqrt_correction = static_cast<float>(1.0 / sqrt(1.0 - powi(hyper.beta2, step)));
        s.eps = static_cast<float>(hyper.eps);
        s.decay = static_cast<float>(kDecoupled ? 1.0 - hyper.lr * hyper.weight_decay : hyper.weight_decay);
        return s;
    }

    static HALFOPS_HD float apply(const Scalars& s, float grad, float w, float (&state)[2]) {
        float g = grad * s.grad;
        if (kDecoupled) {
            w = w * s.decay;
        } else {
            g = g + s.decay * w;
        }
        const float m = lerp(state[0], g, s.one_minus_beta1);
        const float v = s.beta2 * state[1] + s.one_minus_beta2 * (g * g);
        state[0] = m;
        state[1] = v;
        return w - s.step_size * (m / (sqrtf(v) * s.inv_sqrt_correction + s.eps));
    }
};

using AdamW = AdamRule<true>;
using Adam = AdamRule<false>;

}  // namespace halfops::update
