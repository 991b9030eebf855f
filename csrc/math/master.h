// How the fp32 value of a 16-bit weight is kept: not at all, as an fp32 copy, or as 16 more bits beside the weight.
//
// A format says how many bits it stores beside the weight (Extra), what weight it shows for the value w, what it
// stores, and how both give w back. `shown` is always the weight as float, so that engines may convert with F16C.
#pragma once

#include "core/dtype.h"

namespace halfops {

struct NoExtra {};

// Nothing beside the weight: what the weight cannot hold is lost at every step (see math/rounding.h).
template <class T>
struct MasterNone {
    using Extra = NoExtra;
    static HALFOPS_HD T weight(float w) { return from_f32<T>(w); }
    static HALFOPS_HD Extra extra(float /*w*/, float /*shown*/) { return {}; }
    static HALFOPS_HD float load(float shown, Extra) { return shown; }
};

// The fp32 value itself; the weight is a rounded copy of it.
template <class T>
struct MasterF32 {
    using Extra = float;
    static HALFOPS_HD T weight(float w) { return from_f32<T>(w); }
    static HALFOPS_HD Extra extra(float w, float /*shown*/) { return w; }
    static HALFOPS_HD float load(float /*shown*/, Extra w) { return w; }
};

template <class T>
struct MasterSplit;

// fp16 and a signed remainder in units of 2^(exponent - 24) of the weight, the exponent being -14 for zero and
// subnormals. Half the gap of fp16 is 2^13 units, so |remainder| <= 8192. A unit is at most the last place of w
// whenever |w| >= 2^-15 (just below a power of two it is exactly that): from there to the overflow of fp16 the pair is
// w to the bit. Smaller values come back within half of the smallest unit, 2^-39.
template <>
struct MasterSplit<f16> {
    using Extra = int16_t;

    static HALFOPS_HD f16 weight(float w) { return from_f32<f16>(w); }

    static HALFOPS_HD Extra extra(float w, float shown) {
        const uint32_t exponent = exponent_of(shown);
        const float inverse_unit = float_of((278u - exponent) << 23);
        const float units = exponent == 0xffu ? 0.0f : (w - shown) * inverse_unit;
        // 1.5 * 2^23 puts the last place of the float at 1: the FPU rounds to an integer, which is then in the low
        // bits.
        return static_cast<int16_t>(bits_of(units + 0x1.8p23f) - 0x4b400000u);
    }

    static HALFOPS_HD float load(float shown, Extra remainder) {
        const float unit = float_of((exponent_of(shown) - 24u) << 23);
        const float w = shown + static_cast<float>(remainder) * unit;
        return remainder == 0 ? shown : w;  // keeps the sign of -0
    }

  private:
    static HALFOPS_HD uint32_t exponent_of(float shown) {
        const uint32_t exponent = (bits_of(shown) >> 23) & 0xffu;
        return exponent < 113u ? 113u : exponent;
    }
};

// bf16 and the other 16 bits of the fp32, read as signed: a negative remainder means that the weight was rounded up.
// Lossless for every number. Ties must go away from zero: the tie's remainder is -32768, always "rounded up".
template <>
struct MasterSplit<bf16> {
    using Extra = int16_t;

    static HALFOPS_HD bf16 weight(float w) {
        const uint32_t u = bits_of(w);
        return bf16{static_cast<uint16_t>(is_nan(u) ? 0x7fc0u : (u + 0x8000u) >> 16)};
    }

    static HALFOPS_HD Extra extra(float w, float /*shown*/) {
        const uint32_t u = bits_of(w);
        return static_cast<int16_t>(is_nan(u) ? 0u : u);
    }

    static HALFOPS_HD float load(float shown, Extra remainder) {
        return float_of(bits_of(shown) + static_cast<uint32_t>(static_cast<int32_t>(remainder)));
    }

  private:
    static HALFOPS_HD bool is_nan(uint32_t u) { return (u & 0x7fffffffu) > 0x7f800000u; }
};

}  // namespace halfops
