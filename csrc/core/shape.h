// Small index arithmetic. All of it in 64 bits: an operand may have more than 2^31 elements.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace halfops {

HALFOPS_HD constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
HALFOPS_HD constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
HALFOPS_HD constexpr int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

}  // namespace halfops
