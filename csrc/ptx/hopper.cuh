// Whether the code at hand is compiled for sm_90a, whose own instructions no other architecture has.
#pragma once

#include <cuda_runtime.h>

namespace halfops::ptx {

#if defined(HALFOPS_EMULATOR) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool kHasHopper = true;
#define HALFOPS_HAS_HOPPER 1
#else
inline constexpr bool kHasHopper = false;
#define HALFOPS_HAS_HOPPER 0
#endif

}  // namespace halfops::ptx
