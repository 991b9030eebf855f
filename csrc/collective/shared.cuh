// The only static shared memory: arrays that an emulator can put between red zones and fill with poison.
#pragma once

#if defined(HALFOPS_EMULATOR)
#include "emulator/shared.h"
#endif

namespace halfops {

// One array for each Tag, type and count that a kernel names; it starts undefined, as shared memory does.
template <class Tag, class T, int kCount>
__device__ __forceinline__ T (&shared_array())[kCount] {
#if defined(HALFOPS_EMULATOR)
    return emulator::shared_array<Tag, T, kCount>();
#else
    __shared__ T array[kCount];
    return array;
#endif
}

}  // namespace halfops
