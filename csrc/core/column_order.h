// The order of column sums, the same in every engine on every device: kRowsInFloat rows are added in fp32, kSumsOfGroup
// such sums in double, and what those groups have become in order. The error stays that of 64 additions at any height.
#pragma once

#include <cstdint>

namespace halfops {

inline constexpr int64_t kRowsInFloat = 64;
inline constexpr int64_t kSumsOfGroup = 32;

}  // namespace halfops
