// The 16-bit formats as plain structs, and every conversion that loses or adds bits.
//
// The integer formulas below are the definition; F16C and the GPU's cvt instructions give the same bits
// (all 65,536 halves and a sweep of floats are tested). They are branch-free so that loops over them vectorise.
// Nothing here flushes subnormals. A NaN stays a NaN: on the CPU f16 keeps sign and upper payload as F16C does and bf16
// becomes the canonical 0x7fc0 as in torch; a GPU makes both its own canonical one (0x7fff).
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace halfops {

struct f16 {
    uint16_t bits;
};

struct bf16 {
    uint16_t bits;
};

enum class DType : int32_t { f16, bf16, f32, i16 };

HALFOPS_HD constexpr int64_t bytes_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<f16> {
    static constexpr DType value = DType::f16;
};
template <>
struct DTypeOf<bf16> {
    static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<float> {
    static constexpr DType value = DType::f32;
};

HALFOPS_HD uint32_t bits_of(float x) {
#if defined(__CUDA_ARCH__)
    return __float_as_uint(x);
#else
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    return u;
#endif
}

HALFOPS_HD float float_of(uint32_t u) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(u);
#else
    float x;
    memcpy(&x, &u, sizeof(x));
    return x;
#endif
}

HALFOPS_HD bool is_nonfinite(float x) { return (bits_of(x) & 0x7fffffffu) >= 0x7f800000u; }

HALFOPS_HD float to_f32(float x) { return x; }

HALFOPS_HD float to_f32(bf16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

HALFOPS_HD float to_f32(f16 x) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(x.bits));
#else
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu);
    // Moved into place the exponent is 112 too small. A subnormal is a count of 2^-24: no float on the way is
    // subnormal, so the number survives where the thread flushes those (torch.set_flush_denormal).
    const uint32_t normal = (magnitude << 13) + (112u << 23);
    const uint32_t subnormal = bits_of(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
    const uint32_t finite = magnitude < 0x400u ? subnormal : normal;
    const uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
    const uint32_t special = (magnitude << 13) | 0x7f800000u | quiet;
    return float_of(sign | (magnitude >= 0x7c00u ? special : finite));
#endif
}

// Rounding to nearest, ties to even: the default everywhere. from_f32<T>(x).
template <class T>
struct Nearest;

template <>
struct Nearest<float> {
    static HALFOPS_HD float from(float x) { return x; }
};

template <>
struct Nearest<bf16> {
    static HALFOPS_HD bf16 from(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        // The instruction for two numbers: that for one is slower.
        return bf16{__bfloat16_as_ushort(__floats2bfloat162_rn(x, 0.0f).x)};
#else
        const uint32_t u = bits_of(x);
        const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
        const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
        return bf16{static_cast<uint16_t>(nan ? 0x7fc0u : rounded)};
#endif
    }
};

template <>
struct Nearest<f16> {
    static HALFOPS_HD f16 from(float x) {
#if defined(__CUDA_ARCH__)
        return f16{__half_as_ushort(__float2half_rn(x))};
#else
        const uint32_t u = bits_of(x);
        const uint32_t sign = (u >> 16) & 0x8000u;
        const uint32_t magnitude = u & 0x7fffffffu;
        // Normal results: rebias the exponent, then round the 13 dropped bits; a carry may reach infinity.
        const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
        // Subnormal results: adding 0.5 puts the half's last place at the float's, so the FPU rounds for us.
        const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
        const uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
        const uint32_t special = magnitude > 0x7f800000u ? nan : 0x7c00u;
        const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
        return f16{static_cast<uint16_t>(sign | (magnitude >= 0x47800000u ? special : finite))};
#endif
    }
};

template <class T>
HALFOPS_HD T from_f32(float x) {
    return Nearest<T>::from(x);
}

// Two 16-bit neighbours as they lie in memory. A GPU rounds both in one instruction.
template <class T>
HALFOPS_HD uint32_t pair_from_f32(float x, float y) {
#if defined(__CUDA_ARCH__)
    if constexpr (DTypeOf<T>::value == DType::f16) {
        const __half2 pair = __floats2half2_rn(x, y);
        return static_cast<uint32_t>(__half_as_ushort(__high2half(pair))) << 16 | __half_as_ushort(__low2half(pair));
    }
#if __CUDA_ARCH__ >= 800
    if constexpr (DTypeOf<T>::value == DType::bf16) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
        return static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16 | __bfloat16_as_ushort(pair.x);
    }
#endif
#endif
    return from_f32<T>(x).bits | static_cast<uint32_t>(from_f32<T>(y).bits) << 16;
}

}  // namespace halfops
