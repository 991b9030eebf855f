// The moving average of a gradient, from + weight (to - from), as torch.lerp forms it.
#pragma once

#include "core/macros.h"

namespace halfops {

// From the end that is nearer: a weight of 1 gives `to` itself, however large `from` was.
HALFOPS_HD float lerp(float from, float to, float weight) {
    const bool near_from = weight < 0.5f;
    const float base = near_from ? from : to;
    const float share = near_from ? weight : weight - 1.0f;
    return base + share * (to - from);
}

}  // namespace halfops
