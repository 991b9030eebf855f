// The activations: value(z) and derivative(z) side by side, for every engine on every device.
//
// On the CPU only + - * / and bit arithmetic, no library function: so its variants agree to the bit, and the loops
// around these functions vectorise. Selects instead of branches. A NaN stays a NaN; at -inf the value is the limit
// (-0). On a GPU the four primitives below are its instructions for them: a division and an exponential in correctly
// rounded operations are 40 of 55 instructions, and took an H200's fused layers up to half of their time.
//
// Largest relative errors against exact arithmetic, over all finite fp16 inputs and 4 million floats:
//   value       gelu 9.1e-7, gelu_tanh 2.3e-6 (1.3e-5 for results below 2^-25), silu 2.3e-7 (5.2e-6 below 2^-25)
//   derivative  the same, but near its zero (z = -0.75, silu -1.28) an absolute error: 2.5e-7 for each
// On a GPU, from the errors that the PTX ISA states for its instructions: 2e-6 (2e-5 for results below 2^-25, and 0
// below 2^-126); far less than what rounding to 16 bits adds, so that a result is the neighbour of the CPU's in one of
// some thousand cases.
#pragma once

#include "core/dtype.h"
#include "core/macros.h"

#if defined(__CUDACC__)
#include "ptx/approximate.cuh"
#endif

namespace halfops {

enum class Activation { none, relu, gelu, gelu_tanh, silu };

namespace activation {

HALFOPS_HD float at_least(float x, float low) { return x < low ? low : x; }  // keeps a NaN
HALFOPS_HD float magnitude(float x) { return float_of(bits_of(x) & 0x7fffffffu); }

// x, but no farther from 0 than `limit`; a NaN too becomes +-limit (keep_nan brings it back). On the CPU as an integer
// minimum, because g++ turns a float comparison into two copies of all that follows, of which one is full of
// subnormals.
HALFOPS_HD float bounded(float x, float limit) {
#if defined(__CUDA_ARCH__)
    return fminf(fmaxf(x, -limit), limit);
#else
    const uint32_t size = bits_of(x) & 0x7fffffffu, most = bits_of(limit);
    return float_of((bits_of(x) & 0x80000000u) | (size < most ? size : most));
#endif
}
HALFOPS_HD float keep_nan(float z, float result) { return z != z ? z : result; }

// a b + c, on a GPU rounded once.
HALFOPS_HD float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#else
    return a * b + c;
#endif
}

// Of 1 <= x < 2^126.
HALFOPS_HD float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
    return ptx::reciprocal_approximately(x);
#else
    return 1.0f / x;
#endif
}

// e^(high + low) for -128 < high <= 0 and |low| < 1e-3. On the CPU with a relative error below 1.5e-7, and 0 and
// subnormals where they belong: adding 1.5 * 2^23 rounds to an integer n, whose bits then are the exponent of 2^n; r is
// what remains, |r| <= ln(2) / 2.
HALFOPS_HD float exp_of_sum(float high, float low) {
#if defined(__CUDA_ARCH__)
    return ptx::exp2_approximately(__fmaf_rn(high, 1.44269504f, low * 1.44269504f));
#else
    const float shifted = high * 1.44269504f + 12582912.0f;
    const float n = shifted - 12582912.0f;
    const float r = ((high - n * 0x1.62cp-1f) - n * 0.00027608682f) + low;  // n * the first is exact
    float p = 0.00138144661f;
    p = p * r + 0.00836878084f;
    p = p * r + 0.0416683927f;
    p = p * r + 0.166665196f;
    p = p * r + 0.49999994f;
    p = p * r * r + r + 1.0f;
    // 2^n in two factors, so that n < -126 is legal.
    const float scale = float_of((bits_of(shifted) + (64 + 127)) << 23);
    return p * scale * 0x1p-64f;
#endif
}

// 1 / (1 + e^-v) and one minus it, both with a small relative error; |v| < 128.
struct Sigmoid {
    float value, rest;
};

HALFOPS_HD Sigmoid sigmoid(float v) {
    const float e = exp_of_sum(-magnitude(v), 0.0f);
    const float larger = reciprocal(1.0f + e);
    const float smaller = e * larger;
    return v < 0.0f ? Sigmoid{smaller, larger} : Sigmoid{larger, smaller};
}

// Phi(-|z|), the normal distribution's lower tail, and e^(-z^2 / 2): the tail is that times a function which falls
// slowly, so its relative error stays small all the way down. |z| <= 15.
struct NormalTail {
    float tail, gauss;
};

HALFOPS_HD NormalTail normal_tail(float z) {
    const float a = magnitude(z);
    // a^2 in two parts, the first exact: a rounding error of z^2 / 2 ~ 100 would cost five digits.
    const float head = float_of(bits_of(a) & 0xfffff000u);
    const float gauss = exp_of_sum(head * head * -0.5f, (a - head) * (a + head) * -0.5f);
    const float t = reciprocal(fused(0.26f, a, 1.0f));
    float p = 0.0302301981f;
    p = fused(p, t, -0.151493967f);
    p = fused(p, t, 0.248732299f);
    p = fused(p, t, -0.147788391f);
    p = fused(p, t, 0.158758149f);
    p = fused(p, t, 0.0519650616f);
    p = fused(p, t, 0.102788627f);
    p = fused(p, t, 0.103050984f);
    p = fused(p, t, 0.103757024f);
    return {gauss * (t * p), gauss};
}

}  // namespace activation

struct Identity {
    static HALFOPS_HD float value(float z) { return z; }
    static HALFOPS_HD float derivative(float) { return 1.0f; }
};

struct Relu {
    static HALFOPS_HD float value(float z) { return z <= 0.0f ? 0.0f : z; }
    static HALFOPS_HD float derivative(float z) { return z <= 0.0f ? 0.0f : 1.0f; }
};

// The bounds below are where the tail has become 0 in float, so that -inf gives -0 and not -inf * 0.

// z Phi(z), Phi the normal distribution function: torch's approximate="none".
struct Gelu {
    static HALFOPS_HD float value(float z) {
        const float tail = activation::normal_tail(activation::bounded(z, 15.0f)).tail;
        return activation::at_least(z, -15.0f) * (z < 0.0f ? tail : 1.0f - tail);
    }
    static HALFOPS_HD float derivative(float z) {
        const float c = activation::bounded(z, 15.0f);
        const activation::NormalTail n = activation::normal_tail(c);
        const float phi = c < 0.0f ? n.tail : 1.0f - n.tail;
        return activation::keep_nan(z, activation::fused(c, n.gauss * 0.398942280f, phi));
    }
};

// z (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (z + 0.044715 z^3), which is z sigmoid(2 u).
struct GeluTanh {
    static HALFOPS_HD float value(float z) {
        const float c = activation::bounded(z, 11.5f);
        const activation::Sigmoid s = activation::sigmoid(c * activation::fused(0.0713548163f, c * c, 1.59576912f));
        return activation::at_least(z, -11.5f) * s.value;
    }
    static HALFOPS_HD float derivative(float z) {
        const float c = activation::bounded(z, 11.5f), square = c * c;
        const activation::Sigmoid s = activation::sigmoid(c * activation::fused(0.0713548163f, square, 1.59576912f));
        const float slope = activation::fused(0.214064449f, square, 1.59576912f);
        return activation::keep_nan(z, s.value * activation::fused(c * s.rest, slope, 1.0f));
    }
};

// z sigmoid(z)
struct Silu {
    static HALFOPS_HD float value(float z) {
        const activation::Sigmoid s = activation::sigmoid(activation::bounded(z, 120.0f));
        return activation::at_least(z, -120.0f) * s.value;
    }
    static HALFOPS_HD float derivative(float z) {
        const float c = activation::bounded(z, 120.0f);
        const activation::Sigmoid s = activation::sigmoid(c);
        return activation::keep_nan(z, s.value * activation::fused(c, s.rest, 1.0f));
    }
};

// What reaches z when dy arrives at act(z). Relu selects instead of multiplying: an infinite dy that meets a closed
// unit is no overflow.
template <class A>
HALFOPS_HD float activation_gradient(A, float dy, float z) {
    return dy * A::derivative(z);
}
HALFOPS_HD float activation_gradient(Identity, float dy, float) { return dy; }
HALFOPS_HD float activation_gradient(Relu, float dy, float z) { return z <= 0.0f ? 0.0f : dy; }

// h = act(gate) * up, and what reaches the two factors.
template <class A>
struct Gated {
    static HALFOPS_HD float value(float gate, float up) { return A::value(gate) * up; }
    static HALFOPS_HD float gate_gradient(float dh, float gate, float up) {
        return activation_gradient(A{}, dh * up, gate);
    }
    static HALFOPS_HD float up_gradient(float dh, float gate) { return dh * A::value(gate); }
};

// f(A{}) with the type for a name: how run-time choice becomes compile-time. The pragma lets nvcc accept an f that runs
// on the host alone.
#pragma nv_exec_check_disable
template <class F>
HALFOPS_HD auto with_activation(Activation which, const F& f) {
    switch (which) {
        case Activation::relu:
            return f(Relu{});
        case Activation::gelu:
            return f(Gelu{});
        case Activation::gelu_tanh:
            return f(GeluTanh{});
        case Activation::silu:
            return f(Silu{});
        default:
            return f(Identity{});
    }
}

}  // namespace halfops
