// Sums of squares as flags: infinite or NaN exactly when an element was.
#pragma once

#include "core/macros.h"

namespace halfops {

// x - x is 0 for finite x only.
HALFOPS_HD bool is_finite(double x) { return x - x == 0.0; }

// NaNs of different sign and payload are one answer.
HALFOPS_HD double one_nan(double x) { return x == x ? x : static_cast<double>(__builtin_nanf("")); }

}  // namespace halfops
