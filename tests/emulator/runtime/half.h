// 16-bit numbers in the runtime: what they are worth, and how the tensor cores and the copy engine make them.
#pragma once

#include <cstdint>

#include "emulator/matrix.h"

namespace emulator {

inline double value_of(Half format, uint32_t bits) {
    if (format == Half::bf16) return __builtin_bit_cast(float, bits << 16);
    const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 0x1fu, mantissa = bits & 0x3ffu;
    if (exponent == 0) return (sign != 0 ? -1.0 : 1.0) * mantissa * 0x1p-24;
    const uint32_t moved = exponent == 0x1fu ? 0xffu : exponent + 112;
    return __builtin_bit_cast(float, sign | moved << 23 | mantissa << 13);
}

// To nearest, ties to even. NaNs become the one that a GPU makes.
inline uint16_t bits_of(Half format, float value) {
    if (value != value) return 0x7fffu;
    if (format == Half::f16) return __builtin_bit_cast(uint16_t, static_cast<_Float16>(value));
    const uint32_t bits = __builtin_bit_cast(uint32_t, value);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace emulator
