// Rows of 16-bit numbers to float and back, at the width of the variant. Same bits as dtype.h's to_f32 and from_f32.
//
// Engines convert at the door: a block of a few hundred elements goes to a float buffer in L1, plain float loops (which
// the compiler vectorises) do the arithmetic, and the result is narrowed on the way out.
#pragma once

#include "core/variant.h"

namespace halfops {
namespace HALFOPS_VARIANT {

HALFOPS_INLINE void widen(const float* source, float* target, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = source[i];
}

HALFOPS_INLINE void widen(const bf16* source, float* target, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = to_f32(source[i]);
}

HALFOPS_INLINE void widen(const f16* source, float* target, int64_t n) {
    int64_t i = 0;
#if defined(HALFOPS_VARIANT_AVX512)
    for (; i + 16 <= n; i += 16) {
        const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i));
        _mm512_storeu_ps(target + i, _mm512_maskz_cvtph_ps(0xffff, half));
    }
#elif defined(HALFOPS_VARIANT_AVX2)
    for (; i + 8 <= n; i += 8) {
        const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i));
        _mm256_storeu_ps(target + i, _mm256_cvtph_ps(half));
    }
#endif
    for (; i < n; ++i) target[i] = to_f32(source[i]);
}

HALFOPS_INLINE void narrow(const float* source, float* target, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = source[i];
}

HALFOPS_INLINE void narrow(const float* source, bf16* target, int64_t n) {
    for (int64_t i = 0; i < n; ++i) target[i] = from_f32<bf16>(source[i]);
}

HALFOPS_INLINE void narrow(const float* source, f16* target, int64_t n) {
    int64_t i = 0;
#if defined(HALFOPS_VARIANT_AVX512)
    for (; i + 16 <= n; i += 16) {
        const __m256i half = _mm512_maskz_cvtps_ph(0xffff, _mm512_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + i), half);
    }
#elif defined(HALFOPS_VARIANT_AVX2)
    for (; i + 8 <= n; i += 8) {
        const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), half);
    }
#endif
    for (; i < n; ++i) target[i] = from_f32<f16>(source[i]);
}

}  // namespace HALFOPS_VARIANT
}  // namespace halfops
