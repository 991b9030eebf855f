// The scale engine, compiled once for each CPU variant.
#pragma once

#include "core/squares.inl.h"
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

// What a lane is summed in. The square of an fp16 number is exact in float, and the kChunk / kLanes of a lane cannot
// overflow there. Other formats' can; their squares are exact in double.
template <class T>
struct Lane {
    using Sum = double;
};
template <>
struct Lane<f16> {
    using Sum = float;
};

HALFOPS_INLINE uint32_t magnitude_of(f16 x) { return x.bits & 0x7fffu; }
HALFOPS_INLINE uint32_t magnitude_of(bf16 x) { return x.bits & 0x7fffu; }
HALFOPS_INLINE uint32_t magnitude_of(float x) { return bits_of(x) & 0x7fffffffu; }

template <class T>
HALFOPS_INLINE int64_t zeros_in(const T* block, int64_t n) {
    int32_t zeros = 0;
    for (int64_t i = 0; i < n; ++i) zeros += magnitude_of(block[i]) == 0 ? 1 : 0;
    return zeros;
}

// The one loop over a chunk; prepare(i, n) sees each block of it before it is read.
template <class T, class Prepare>
HALFOPS_INLINE scale::ChunkStats stats_of(const T* data, int64_t begin, int64_t end, bool count_zeros,
                                          Prepare prepare) {
    using Sum = typename Lane<T>::Sum;
    alignas(64) Sum lanes[kLanes] = {};
    int64_t zeros = 0, i = begin;
    for (; i + kSquares <= end; i += kSquares) {  // with a count that the compiler knows
        prepare(i, kSquares);
        add_squares(data + i, kSquares, lanes);
        if (count_zeros) zeros += zeros_in(data + i, kSquares);
    }
    if (i < end) {
        prepare(i, end - i);
        add_squares(data + i, end - i, lanes);
        if (count_zeros) zeros += zeros_in(data + i, end - i);
    }
    return {add_lanes(lanes, end - begin), zeros};
}

// Chunk by chunk of elements [begin, end).
template <class T, class Prepare>
HALFOPS_INLINE void each_chunk(const T* data, int64_t begin, int64_t end, bool count_zeros, scale::ChunkStats* out,
                               Prepare prepare) {
    for (; begin < end; begin += kChunk) {
        *out++ = stats_of(data, begin, smaller(end, begin + kChunk), count_zeros, prepare);
    }
}

template <class T>
static void grad_stats(const void* data, int64_t begin, int64_t end, bool count_zeros, scale::ChunkStats* out) {
    each_chunk(static_cast<const T*>(data), begin, end, count_zeros, out,
               [](int64_t, int64_t) __attribute__((always_inline)) {});
}

// The statistics are those of what was stored: what a later reader of the gradients will find.
template <class T>
static void unscale(void* data, int64_t begin, int64_t end, float inv_scale, bool count_zeros, scale::ChunkStats* out) {
    auto* target = static_cast<T*>(data);
    each_chunk<T>(target, begin, end, count_zeros, out, [=](int64_t i, int64_t n) __attribute__((always_inline)) {
        alignas(64) float block[kSquares];
        widen(target + i, block, n);
        for (int64_t k = 0; k < n; ++k) block[k] = block[k] * inv_scale;
        narrow(block, target + i, n);
    });
}

void grad_stats(const scale::Span& span, int64_t begin, int64_t end, bool count_zeros, scale::ChunkStats* out) {
    switch (span.dtype) {
        case DType::f16:
            return grad_stats<f16>(span.data, begin, end, count_zeros, out);
        case DType::bf16:
            return grad_stats<bf16>(span.data, begin, end, count_zeros, out);
        default:
            return grad_stats<float>(span.data, begin, end, count_zeros, out);
    }
}

void unscale(const scale::MutableSpan& span, int64_t begin, int64_t end, float inv_scale, bool count_zeros,
             scale::ChunkStats* out) {
    switch (span.dtype) {
        case DType::f16:
            return unscale<f16>(span.data, begin, end, inv_scale, count_zeros, out);
        case DType::bf16:
            return unscale<bf16>(span.data, begin, end, inv_scale, count_zeros, out);
        default:
            return unscale<float>(span.data, begin, end, inv_scale, count_zeros, out);
    }
}

}  // namespace HALFOPS_VARIANT
}  // namespace halfops
