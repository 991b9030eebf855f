// Lion (Chen et al. 2023), weight decay decoupled.
//
//   w = (1 - lr weight_decay) w - lr sign(beta1 m + (1 - beta1) g)          m = beta2 m + (1 - beta2) g
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace halfops::update {

struct Lion {
    static constexpr const char* kName = "lion";
    static constexpr const char* kHyperNames[] = {"lr", "beta1", "beta2", "weight_decay", "maximize"};
    static constexpr const char* kStateNames[] = {"exp_avg"};
    static constexpr int kStates = 1;

    struct Hyper {
        double lr, beta1, beta2, weight_decay, maximize;
    };

    struct Scalars {
        float grad, lr, beta1, one_minus_beta1, beta2, one_minus_beta2, decay;
    };

    static HALFOPS_HD Scalars prepare(const Hyper& hyper, int64_t /*step*/, double grad_factor) {
        Scalars s;
        s.grad = static_cast<float>(hyper.maximize != 0.0 ? -grad_factor : grad_factor);
        s.lr = static_cast<float>(hyper.lr);
        s.beta1 = static_cast<float>(hyper.beta1);
        s.one_minus_beta1 = static_cast<float>(1.0 - hyper.beta1);
        s.beta2 = static_cast<float>(hyper.beta2);
        s.one_minus_beta2 = static_cast<float>(1.0 - hyper.beta2);
        s.decay = static_cast<float>(1.0 - hyper.lr * hyper.weight_decay);
        return s;
    }

    static HALFOPS_HD float apply(const Scalars& s, float grad, float w, float (&state)[1]) {
        const float g = grad * s.grad;
        const float vote = s.beta1 * state[0] + s.one_minus_beta1 * g;
        const float up = vote > 0.0f ? s.lr : 0.0f;
        const float down = vote < 0.0f ? s.lr : 0.0f;
        state[0] = s.beta2 * state[0] + s.one_minus_beta2 * g;
        return w * s.decay - (up - down);
    }
};

}  // namespace halfops::update
