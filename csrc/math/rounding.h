// Stochastic rounding from fp32 to 16 bits: up with the probability that makes the result right on average.
//
// The rule, for both formats: a value that the format has never moves; a value between two neighbours goes to the upper
// one (in magnitude) with probability distance / gap, as exactly as 31 random bits can say it; beyond the largest
// finite number there is no upper neighbour to be fair with, so those values, infinities and NaNs go where nearest
// sends them. Nearest rounding itself is from_f32 in core/dtype.h.
#pragma once

#include "core/dtype.h"

namespace halfops {

template <class T>
struct Stochastic;

template <>
struct Stochastic<float> {
    static HALFOPS_HD float from(float x, uint32_t /*random*/) { return x; }
};

template <>
struct Stochastic<bf16> {
    static HALFOPS_HD bf16 from(float x, uint32_t random) {
        // Adding a random number below the kept bits and cutting: the carry is the decision.
        const uint32_t u = bits_of(x);
        const uint16_t rounded = static_cast<uint16_t>((u + (random >> 16)) >> 16);
        const bool beyond = (u & 0x7fffffffu) > 0x7f7f0000u;
        const uint16_t nearest = from_f32<bf16>(x).bits;
        return bf16{beyond ? nearest : rounded};
    }
};

template <>
struct Stochastic<f16> {
    static HALFOPS_HD f16 from(float x, uint32_t random) {
        const uint32_t u = bits_of(x);
        const uint32_t sign = (u >> 16) & 0x8000u;
        const uint32_t magnitude = u & 0x7fffffffu;
        // Normal results: 13 bits are dropped.
        const uint32_t normal = (magnitude - 0x38000000u + (random >> 19)) >> 13;
        // Subnormal results are multiples of 2^-24, and any number of bits is dropped: up if the fraction exceeds the
        // random one. Both are exact: the scaling is by powers of two, the difference of a float and its floor is one.
        const float scaled = float_of(magnitude < 0x38800000u ? magnitude : 0u) * 0x1p24f;
        const int32_t whole = static_cast<int32_t>(scaled);
        const int32_t fraction = static_cast<int32_t>((scaled - static_cast<float>(whole)) * 0x1p31f);
        const uint32_t up = static_cast<int32_t>(random >> 1) < fraction ? 1u : 0u;
        const uint32_t subnormal = static_cast<uint32_t>(whole) + up;
        const uint32_t finite = sign | (magnitude < 0x38800000u ? subnormal : normal);
        const uint32_t nearest = from_f32<f16>(x).bits;
        return f16{static_cast<uint16_t>(magnitude > 0x477fe000u ? nearest : finite)};
    }
};

template <class T>
HALFOPS_HD T from_f32_stochastic(float x, uint32_t random) {
    return Stochastic<T>::from(x, random);
}

}  // namespace halfops
