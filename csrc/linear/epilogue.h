// What happens to one element of a product between its fp32 accumulator and memory: the steps, and their compositions.
//
// Everything here is a formula on floats that both the CPU engine (which applies a step to a whole row in L1) and the
// CUDA kernels (which apply a composition to a register) use, so they round at the same places.
#pragma once

#include "core/dtype.h"
#include "core/macros.h"
#include "math/activation.h"

namespace halfops::linear {

// Steps, in the order in which an epilogue applies them.
struct Scale {
    float alpha;
    HALFOPS_HD float operator()(float acc) const { return alpha * acc; }
};

struct AddBias {
    HALFOPS_HD float operator()(float acc, float bias) const { return acc + bias; }
};

// The pre-activation is rounded to the dtype in which it is saved before the activation sees it: forward and backward
// then speak of the same number.
template <class T>
struct Round {
    HALFOPS_HD float operator()(float z) const { return to_f32(from_f32<T>(z)); }
};

template <class A>
struct Activate {
    HALFOPS_HD float operator()(float z) const { return A::value(z); }
};

template <class A>
struct ActivationGradient {
    HALFOPS_HD float operator()(float dy, float z) const { return activation_gradient(A{}, dy, z); }
};

// A residual (beta = 1), beta * c of matmul, or the gradient that is accumulated into.
struct AddScaled {
    float beta;
    HALFOPS_HD float operator()(float y, float c) const { return y + beta * c; }
};

// Compositions. z is what save_preact keeps.
template <class T, class A>
struct LinearForward {
    HALFOPS_HD float preact(float acc, float bias) const { return Round<T>{}(AddBias{}(acc, bias)); }
    HALFOPS_HD float output(float z) const { return Activate<A>{}(z); }
    HALFOPS_HD float output(float z, float residual) const { return AddScaled{1.0f}(Activate<A>{}(z), residual); }
};

// Without an activation nothing is rounded before the residual is added.
template <class T>
struct LinearForward<T, Identity> {
    HALFOPS_HD float preact(float acc, float bias) const { return AddBias{}(acc, bias); }
    HALFOPS_HD float output(float z) const { return z; }
    HALFOPS_HD float output(float z, float residual) const { return AddScaled{1.0f}(z, residual); }
};

template <class T, class A>
struct GatedForward {
    HALFOPS_HD float output(float gate_acc, float up_acc, float gate_bias, float up_bias) const {
        const float gate = Round<T>{}(AddBias{}(gate_acc, gate_bias));
        return Gated<A>::value(gate, Round<T>{}(AddBias{}(up_acc, up_bias)));
    }
};

}  // namespace halfops::linear
