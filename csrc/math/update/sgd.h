// SGD, without and with momentum, as in torch.optim: weight decay is added to the gradient.
//
//   buffer = momentum buffer + (1 - dampening) g, but g itself at the first step
//   w = w - lr (nesterov ? g + momentum buffer : buffer)
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace halfops::update {

// Two rules rather than one, so that momentum = 0 neither stores nor moves a buffer.
struct Sgd {
    static constexpr const char* kName = "sgd";
    static constexpr const char* kHyperNames[] = {"lr", "weight_decay", "maximize"};
    static constexpr const char* const* kStateNames = nullptr;
    static constexpr int kStates = 0;

    struct Hyper {
        double lr, weight_decay, maximize;
    };

    struct Scalars {
        float grad, lr, weight_decay;
    };

    static HALFOPS_HD Scalars prepare(const Hyper& hyper, int64_t /*step*/, double grad_factor) {
        Scalars s;
        s.grad = static_cast<float>(hyper.maximize != 0.0 ? -grad_factor : grad_factor);
        s.lr = static_cast<float>(hyper.lr);
        s.weight_decay = static_cast<float>(hyper.weight_decay);
        return s;
    }

    static HALFOPS_HD float apply(const Scalars& s, float grad, float w, float (&)[1]) {
        return w - s.lr * (grad * s.grad + s.weight_decay * w);
    }
};

struct SgdMomentum {
    static constexpr const char* kName = "sgd_momentum";
    static constexpr const char* kHyperNames[] = {"lr",           "momentum", "dampening",
                                                  "weight_decay", "nesterov", "maximize"};
    static constexpr const char* kStateNames[] = {"momentum_buffer"};
    static constexpr int kStates = 1;

    struct Hyper {
        double lr, momentum, dampening, weight_decay, nesterov, maximize;
    };

    struct Scalars {
        float grad, weight_decay, keep, add;
        float lr_grad, lr_buffer;  // w - lr_grad g - lr_buffer buffer
    };

    static HALFOPS_HD Scalars prepare(const Hyper& hyper, int64_t step, double grad_factor) {
        const bool first = step <= 1;
        const bool nesterov = hyper.nesterov != 0.0;
        Scalars s;
        s.grad = static_cast<float>(hyper.maximize != 0.0 ? -grad_factor : grad_factor);
        s.weight_decay = static_cast<float>(hyper.weight_decay);
        s.keep = static_cast<float>(first ? 0.0 : hyper.momentum);
        s.add = static_cast<float>(first ? 1.0 : 1.0 - hyper.dampening);
        s.lr_grad = static_cast<float>(nesterov ? hyper.lr : 0.0);
        s.lr_buffer = static_cast<float>(nesterov ? hyper.lr * hyper.momentum : hyper.lr);
        return s;
    }

    static HALFOPS_HD float apply(const Scalars& s, float grad, float w, float (&state)[1]) {
        const float g = grad * s.grad + s.weight_decay * w;
        const float buffer = s.keep * state[0] + s.add * g;
        state[0] = buffer;
        return w - (s.lr_grad * g + s.lr_buffer * buffer);
    }
};

}  // namespace halfops::update
