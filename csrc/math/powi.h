// Integer powers in double by repeated squaring: bias corrections must be the same number on every device, and pow() is
// not.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace halfops {

HALFOPS_HD double powi(double base, int64_t exponent) {
    double power = 1.0;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1) power *= base;
        base *= base;
    }
    return power;
}

}  // namespace halfops
