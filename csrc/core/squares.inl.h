// Sums of squares in the order of core/chunks.h, at the width of the variant: the lanes of a chunk, and their tree.
//
// A chunk comes in blocks of a few rows of lanes, so that a lane's sum stays in a register for the rows of a block.
#pragma once

#include "core/chunks.h"
#include "core/convert.inl.h"

namespace halfops {
namespace HALFOPS_VARIANT {

constexpr int64_t kRows = 4;
constexpr int64_t kSquares = kRows * kLanes;  // elements of a block
static_assert(kChunk % kSquares == 0, "whole blocks make a whole chunk");

// Element i of a block, at most kSquares long, goes to lane i % kLanes. Sum is double, or float where squares and sums
// fit it.
template <class T, class Sum>
HALFOPS_INLINE void add_squares(const T* block, int64_t n, Sum* lanes) {
    if (n == kSquares) {
#pragma GCC ivdep
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            Sum sum = lanes[lane];
            for (int64_t row = 0; row < kRows; ++row) {
                const Sum x = to_f32(block[row * kLanes + lane]);
                sum += x * x;
            }
            lanes[lane] = sum;
        }
        return;
    }
    for (int64_t begin = 0; begin < n; begin += kLanes) {
        const int64_t count = smaller(kLanes, n - begin);
#pragma GCC ivdep
        for (int64_t lane = 0; lane < count; ++lane) {
            const Sum x = to_f32(block[begin + lane]);
            lanes[lane] += x * x;
        }
    }
}

// By way of floats: from 16 bits to double at once, compilers shuffle more than they add.
HALFOPS_INLINE void add_squares(const bf16* block, int64_t n, double* lanes) {
    alignas(64) float wide[kSquares];
    widen(block, wide, n);
    add_squares(wide, n, lanes);
}

#if defined(HALFOPS_VARIANT_AVX512) || defined(HALFOPS_VARIANT_AVX2)
// The same with F16C; of a chunk's end, what is left of the last eight lanes goes the plain way.
HALFOPS_INLINE void add_squares(const f16* block, int64_t n, float* lanes) {
    const auto squares = [block](int64_t i, __m256 sum) __attribute__((always_inline)) {
        const __m256 x = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + i)));
        return _mm256_add_ps(sum, _mm256_mul_ps(x, x));
    };
    if (n == kSquares) {
        for (int64_t lane = 0; lane < kLanes; lane += 8) {
            __m256 sum = _mm256_loadu_ps(lanes + lane);
            for (int64_t row = 0; row < kRows; ++row) sum = squares(row * kLanes + lane, sum);
            _mm256_storeu_ps(lanes + lane, sum);
        }
        return;
    }
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        float* of_eight = lanes + i % kLanes;
        _mm256_storeu_ps(of_eight, squares(i, _mm256_loadu_ps(of_eight)));
    }
    for (; i < n; ++i) {
        const float x = to_f32(block[i]);
        lanes[i % kLanes] += x * x;
    }
}

HALFOPS_INLINE __m256d load4(const double* p) { return _mm256_loadu_pd(p); }
HALFOPS_INLINE __m256d load4(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }

// Two levels of the tree: 16 neighbours become 4.
HALFOPS_INLINE __m256d add_fours(__m256d a, __m256d b, __m256d c, __m256d d) {
    const __m256d ab = _mm256_hadd_pd(a, b), cd = _mm256_hadd_pd(c, d);  // a01 b01 a23 b23, c01 d01 c23 d23
    return _mm256_add_pd(_mm256_permute2f128_pd(ab, cd, 0x20), _mm256_permute2f128_pd(ab, cd, 0x31));
}

template <class Sum>
HALFOPS_INLINE __m256d add_sixteens(const Sum* p) {
    __m256d fours[4];
    for (int64_t i = 0; i < 4; ++i, p += 16) fours[i] = add_fours(load4(p), load4(p + 4), load4(p + 8), load4(p + 12));
    return add_fours(fours[0], fours[1], fours[2], fours[3]);
}
#endif

// The tree over the lanes of a chunk of n elements; lanes that had none are 0.
template <class Sum>
HALFOPS_INLINE double add_lanes(const Sum* lanes, int64_t n) {
#if defined(HALFOPS_VARIANT_AVX512) || defined(HALFOPS_VARIANT_AVX2)
    if (n > kLanes / 2) {
        double sums[4];
        _mm256_storeu_pd(sums, add_fours(add_sixteens(lanes), add_sixteens(lanes + 64), add_sixteens(lanes + 128),
                                         add_sixteens(lanes + 192)));
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
#endif
    const int64_t width = tree_width(smaller(kLanes, n));
    double sums[kLanes];
    for (int64_t lane = 0; lane < width; ++lane) sums[lane] = lanes[lane];
    return add_tree(sums, width);
}

}  // namespace HALFOPS_VARIANT
}  // namespace halfops
