// The scale engine, compiled once for each CPU variant.
#pragma once

#include "core/convert.inl.h"
#include "scale/scale_cpu.h"

namespace halfops {
namespace HALFOPS_VARIANT {

// An element is infinite or NaN exactly when its magnitude, read as an integer, reaches the all-ones exponent.
template <class T>
struct Nonfinite;
template <>
struct Nonfinite<f16> {
    using Bits = uint16_t;
    static constexpr Bits kMagnitude = 0x7fff, kInfinity = 0x7c00;
};
template <>
struct Nonfinite<bf16> {
    using Bits = uint16_t;
    static constexpr Bits kMagnitude = 0x7fff, kInfinity = 0x7f80;
};
template <>
struct Nonfinite<float> {
    using Bits = uint32_t;
    static constexpr Bits kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
};

template <class T>
static bool any_nonfinite(const void* data, int64_t begin, int64_t end) {
    using Format = Nonfinite<T>;
    const auto* bits = static_cast<const typename Format::Bits*>(data);
    typename Format::Bits largest = 0;
    for (int64_t i = begin; i < end; ++i) {
        const typename Format::Bits magnitude = bits[i] & Format::kMagnitude;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest >= Format::kInfinity;
}

bool any_nonfinite(const scale::Span& span, int64_t begin, int64_t end) {
    switch (span.dtype) {
        case DType::f16:
            return any_nonfinite<f16>(span.data, begin, end);
        case DType::bf16:
            return any_nonfinite<bf16>(span.data, begin, end);
        default:
            return any_nonfinite<float>(span.data, begin, end);
    }
}

// Sums of squares run in kLanes lanes over blocks of kBlock elements; the last block may be shorter, its last row of
// lanes is filled up with zeros. Lanes and blocks are the same for every variant, whatever its registers hold, so its
// bits are, too.
constexpr int64_t kBlock = 512;
constexpr int64_t kLanes = 32;

template <class T>
HALFOPS_INLINE void add_squares(const float* block, int64_t n, double* lanes) {
    for (int64_t i = 0; i < n; i += kLanes) {
        for (int64_t l = 0; l < kLanes; ++l) {
            const double x = block[i + l];
            lanes[l] += x * x;
        }
    }
}

// The square of an fp16 number is exact in float, and 16 of them a lane cannot overflow. Other formats can.
template <>
HALFOPS_INLINE void add_squares<f16>(const float* block, int64_t n, double* lanes) {
    float partial[kLanes] = {};
    for (int64_t i = 0; i < n; i += kLanes) {
        for (int64_t l = 0; l < kLanes; ++l) partial[l] += block[i + l] * block[i + l];
    }
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += static_cast<double>(partial[l]);
}

HALFOPS_INLINE int64_t zeros_in(const float* block, int64_t n) {
    int32_t zeros = 0;
    for (int64_t i = 0; i < n; ++i) zeros += (bits_of(block[i]) & 0x7fffffffu) == 0 ? 1 : 0;
    return zeros;
}

HALFOPS_INLINE double sum_of(double* lanes) {
    for (int64_t width = kLanes / 2; width > 0; width /= 2) {
        for (int64_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    }
    return lanes[0];
}

// The one loop over a piece: Load brings elements [i, i + n) as floats.
template <class T, class Load>
HALFOPS_INLINE scale::PieceStats stats_of(int64_t begin, int64_t end, bool count_zeros, Load load) {
    alignas(64) float block[kBlock];
    alignas(64) double lanes[kLanes] = {};
    int64_t zeros = 0, i = begin;
    for (; i + kBlock <= end; i += kBlock) {
        load(i, block, kBlock);
        add_squares<T>(block, kBlock, lanes);
        if (count_zeros) zeros += zeros_in(block, kBlock);
    }
    if (i < end) {
        load(i, block, end - i);
        const int64_t rows = ceil_div(end - i, kLanes) * kLanes;
        for (int64_t k = end - i; k < rows; ++k) block[k] = 0.0f;
        add_squares<T>(block, rows, lanes);
        if (count_zeros) zeros += zeros_in(block, end - i);
    }
    return {sum_of(lanes), zeros};
}

template <class T>
static scale::PieceStats grad_stats(const void* data, int64_t begin, int64_t end, bool count_zeros) {
    const auto* source = static_cast<const T*>(data);
    return stats_of<T>(begin, end, count_zeros, [=](int64_t i, float* block, int64_t n) __attribute__((always_inline)) {
        widen(source + i, block, n);
    });
}

template <class T>
static scale::PieceStats unscale(void* data, int64_t begin, int64_t end, float inv_scale, bool count_zeros) {
    auto* target = static_cast<T*>(data);
    return stats_of<T>(begin, end, count_zeros, [=](int64_t i, float* block, int64_t n) __attribute__((always_inline)) {
        widen(target + i, block, n);
        for (int64_t k = 0; k < n; ++k) block[k] = block[k] * inv_scale;
        narrow(block, target + i, n);
        widen(target + i, block, n);  // as stored: what a later reader of the gradients will find
    });
}

scale::PieceStats grad_stats(const scale::Span& span, int64_t begin, int64_t end, bool count_zeros) {
    switch (span.dtype) {
        case DType::f16:
            return grad_stats<f16>(span.data, begin, end, count_zeros);
        case DType::bf16:
            return grad_stats<bf16>(span.data, begin, end, count_zeros);
        default:
            return grad_stats<float>(span.data, begin, end, count_zeros);
    }
}

scale::PieceStats unscale(const scale::MutableSpan& span, int64_t begin, int64_t end, float inv_scale,
                          bool count_zeros) {
    switch (span.dtype) {
        case DType::f16:
            return unscale<f16>(span.data, begin, end, inv_scale, count_zeros);
        case DType::bf16:
            return unscale<bf16>(span.data, begin, end, inv_scale, count_zeros);
        default:
            return unscale<float>(span.data, begin, end, inv_scale, count_zeros);
    }
}

}  // namespace HALFOPS_VARIANT
}  // namespace halfops
