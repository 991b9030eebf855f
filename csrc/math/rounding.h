// Stochastic rounding from fp32 to 16 bits: up with the probability that makes the result right on average.
//
// The rule, for both formats: a value that the format has never moves; a value between two neighbours goes to the upper
// one (in magnitude) with probability distance / gap, as exactly as 31 random bits can say it; beyond the largest
// finite number there is no upper neighbour to be fair with, so those values, infinities and NaNs go where nearest
// sends them. Nearest rounding itself is from_f32 in core/dtype.h.
#pragma once

#include "core/dtype.h"

namespace halfops {

// condition ? yes : no without a jump. Where several conditions look at one number, compilers turn ?: into jumps from
// one to the next, and do not vectorise.
HALFOPS_HD uint32_t select(bool condition, uint32_t yes, uint32_t no) {
    const uint32_t mask = 0u - static_cast<uint32_t>(condition);
    return (yes & mask) | (no & ~mask);
}

template <class T>
struct Stochastic;

template <>
struct Stochastic<float> {
    static HALFOPS_HD float from(float x, uint32_t /*random*/) { return x; }
};

template <>
struct Stochastic<bf16> {
    static HALFOPS_HD bf16 from(float x, uint32_t random) {
        const uint32_t u = bits_of(x);
        const uint32_t magnitude = u & 0x7fffffffu;
        // Adding a random number below the kept bits and cutting: the carry is the decision.
        const uint32_t nearest = 0x7fffu + ((u >> 16) & 1u);
        const uint32_t rounded = (u + select(magnitude > 0x7f7f0000u, nearest, random >> 16)) >> 16;
        return bf16{static_cast<uint16_t>(select(magnitude > 0x7f800000u, 0x7fc0u, rounded))};
    }
};

template <>
struct Stochastic<f16> {
    static HALFOPS_HD f16 from(float x, uint32_t random) {
        const uint32_t u = bits_of(x);
        const uint32_t sign = (u >> 16) & 0x8000u;
        const uint32_t magnitude = u & 0x7fffffffu;
        // Normal results drop 13 bits: add and cut, as above. A nearest one may be carried to infinity.
        const uint32_t nearest = 0xfffu + ((magnitude >> 13) & 1u);
        const uint32_t added = select(magnitude > 0x477fe000u, nearest, random >> 19);
        const uint32_t normal = (magnitude - 0x38000000u + added) >> 13;
        // Subnormal results are multiples of 2^-24 and drop any number of bits: up if the fraction exceeds a random
        // one. Nothing here rounds: scaling by powers of two, and a float less its integer part.
        const bool small = magnitude < 0x38800000u;
        const float units = float_of(select(small, magnitude, 0u)) * 0x1p24f;
        const int32_t whole = static_cast<int32_t>(units);
        const int32_t fraction = static_cast<int32_t>((units - static_cast<float>(whole)) * 0x1p31f);
        const bool up = static_cast<int32_t>(random >> 1) < fraction;
        const uint32_t subnormal = static_cast<uint32_t>(whole) + static_cast<uint32_t>(up);
        const uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
        const uint32_t special = select(magnitude > 0x7f800000u, nan, 0x7c00u);
        const uint32_t finite = select(small, subnormal, normal);
        return f16{static_cast<uint16_t>(sign | select(magnitude >= 0x47800000u, special, finite))};
    }
};

template <class T>
HALFOPS_HD T from_f32_stochastic(float x, uint32_t random) {
    return Stochastic<T>::from(x, random);
}

}  // namespace halfops
