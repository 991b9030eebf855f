// Rows of random words at the width of the variant. Same bits as rng.h's random_bits.
#pragma once

#include "core/rng.h"
#include "core/variant.h"

namespace halfops {
namespace HALFOPS_VARIANT {

// Rows are filled in whole groups, so a buffer needs room for n rounded up to this.
constexpr int64_t kRandomGroup = 32;

#if defined(HALFOPS_VARIANT_AVX512)

struct Words {
    using Lanes = __m512i;  // one counter in each 64 bits; only the low half of a lane counts
    static constexpr int64_t kQuads = 8;
    static HALFOPS_INLINE Lanes fill(uint32_t x) { return _mm512_set1_epi64(x); }
    static HALFOPS_INLINE Lanes quads(uint64_t first) {
        return _mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(first)),
                                _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
    }
    static HALFOPS_INLINE Lanes multiply(Lanes a, Lanes b) { return _mm512_maskz_mul_epu32(0xff, a, b); }
    static HALFOPS_INLINE Lanes high(Lanes a) { return _mm512_maskz_srli_epi64(0xff, a, 32); }
    static HALFOPS_INLINE Lanes low_high(Lanes low, Lanes high) {
        return _mm512_mask_shuffle_epi32(low, 0xaaaa, high, _MM_PERM_CCAA);
    }
    static HALFOPS_INLINE Lanes exclusive_or(Lanes a, Lanes b, Lanes c) {
        return _mm512_ternarylogic_epi64(a, b, c, 0x96);
    }
    static HALFOPS_INLINE void store(Lanes low, Lanes high, uint32_t* bits) {
        _mm512_storeu_si512(bits, _mm512_maskz_unpacklo_epi64(0xff, low, high));
        _mm512_storeu_si512(bits + 16, _mm512_maskz_unpackhi_epi64(0xff, low, high));
    }
};

#elif defined(HALFOPS_VARIANT_AVX2)

struct Words {
    using Lanes = __m256i;
    static constexpr int64_t kQuads = 4;
    static HALFOPS_INLINE Lanes fill(uint32_t x) { return _mm256_set1_epi64x(x); }
    static HALFOPS_INLINE Lanes quads(uint64_t first) {
        return _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(first)), _mm256_setr_epi64x(0, 2, 1, 3));
    }
    static HALFOPS_INLINE Lanes multiply(Lanes a, Lanes b) { return _mm256_mul_epu32(a, b); }
    static HALFOPS_INLINE Lanes high(Lanes a) { return _mm256_srli_epi64(a, 32); }
    static HALFOPS_INLINE Lanes low_high(Lanes low, Lanes high) {
        return _mm256_blend_epi32(low, _mm256_slli_epi64(high, 32), 0xaa);
    }
    static HALFOPS_INLINE Lanes exclusive_or(Lanes a, Lanes b, Lanes c) {
        return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
    }
    static HALFOPS_INLINE void store(Lanes low, Lanes high, uint32_t* bits) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits), _mm256_unpacklo_epi64(low, high));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits + 8), _mm256_unpackhi_epi64(low, high));
    }
};

#endif

// bits[0 .. n) for the elements that begin at 4 * quad.
static void random_row(uint64_t seed, uint32_t step, uint64_t quad, uint32_t key, int64_t n, uint32_t* bits) {
#if defined(HALFOPS_VARIANT_AVX512) || defined(HALFOPS_VARIANT_AVX2)
    using W = Words;
    const W::Lanes m0 = W::fill(kPhiloxMultiplier0), m1 = W::fill(kPhiloxMultiplier1);
    for (int64_t i = 0; 4 * i < n; i += W::kQuads) {
        W::Lanes x0 = W::quads(quad + static_cast<uint64_t>(i));
        W::Lanes x1 = W::high(x0), x2 = W::fill(step), x3 = W::fill(key);
        auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
        for (int round = 0; round < 10; ++round) {
            const W::Lanes a = W::multiply(x0, m0), b = W::multiply(x2, m1);
            x0 = W::exclusive_or(W::high(b), x1, W::fill(k0));
            x1 = b;
            x2 = W::exclusive_or(W::high(a), x3, W::fill(k1));
            x3 = a;
            k0 += kPhiloxBump0;
            k1 += kPhiloxBump1;
        }
        W::store(W::low_high(x0, x1), W::low_high(x2, x3), bits + 4 * i);
    }
#else
    for (int64_t i = 0; 4 * i < n; ++i) {
        const Philox words = random_quad(seed, step, quad + static_cast<uint64_t>(i), key);
        bits[4 * i] = words.x0;
        bits[4 * i + 1] = words.x1;
        bits[4 * i + 2] = words.x2;
        bits[4 * i + 3] = words.x3;
    }
#endif
}

}  // namespace HALFOPS_VARIANT
}  // namespace halfops
