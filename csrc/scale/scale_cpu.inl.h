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
bool any_nonfinite(const void* data, int64_t begin, int64_t end) {
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

}  // namespace HALFOPS_VARIANT
}  // namespace halfops
