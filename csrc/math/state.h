// How a moment is stored: fp32 now; 16 bits, and the square root of a second moment in 16 bits, for narrower states.
//
// The second moment spans the square of the gradients' range. In fp16 it is 0 below |g| = 5e-3 (beta2 = 0.999); its
// root has the gradients' own range.
#pragma once

#include <cmath>

#include "core/dtype.h"

namespace halfops {

// T in {float, f16, bf16}
template <class T>
struct State {
    using Stored = T;
    static HALFOPS_HD float load(Stored stored) { return to_f32(stored); }
    static HALFOPS_HD Stored store(float value) { return from_f32<T>(value); }
};

using StateF32 = State<float>;

// For values that are never negative.
template <class T>
struct StateSqrt {
    using Stored = T;
    static HALFOPS_HD float load(Stored stored) {
        const float root = to_f32(stored);
        return root * root;
    }
    static HALFOPS_HD Stored store(float value) { return from_f32<T>(sqrtf(value)); }
};

}  // namespace halfops
