// What happens to one element of a product between its fp32 accumulator and memory, step by step.
//
// Formulas on floats, in the order in which an epilogue applies them; the CPU engine applies a step to a row in L1.
// Where there is an activation, what it sees is rounded to the dtype in which the pre-activation is saved: forward and
// backward then speak of the same number. Without one, nothing is rounded before the last step.
#pragma once

#include "core/dtype.h"
#include "core/macros.h"
#include "math/activation.h"

namespace halfops::linear {

struct Scale {
    float alpha;
    HALFOPS_HD float operator()(float acc) const { return alpha * acc; }
};

struct AddBias {
    HALFOPS_HD float operator()(float acc, float bias) const { return acc + bias; }
};

template <class A>
struct Activate {
    HALFOPS_HD float operator()(float z) const { return A::value(z); }
};

template <class A>
struct ActivationGradient {
    HALFOPS_HD float operator()(float dy, float z) const { return activation_gradient(A{}, dy, z); }
};

// The product of a gated layer's two factors, both rounded: act(gate) * up.
template <class A>
struct Gate {
    HALFOPS_HD float operator()(float gate, float up) const { return Gated<A>::value(gate, up); }
};

// What reaches the two factors when dh arrives at their product.
template <class A>
struct GateGradient {
    HALFOPS_HD float operator()(float dh, float gate, float up) const { return Gated<A>::gate_gradient(dh, gate, up); }
};

template <class A>
struct UpGradient {
    HALFOPS_HD float operator()(float dh, float gate) const { return Gated<A>::up_gradient(dh, gate); }
};

// A residual (beta = 1), beta * c of matmul, or the gradient that is accumulated into.
struct AddScaled {
    float beta;
    HALFOPS_HD float operator()(float y, float c) const { return y + beta * c; }
};

}  // namespace halfops::linear
