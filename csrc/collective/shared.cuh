// The only way to shared memory: the emulator of tests/emulator gives it out too, between red zones and full of NaN.
#pragma once

#include <cuda_runtime.h>

#if defined(HALFOPS_EMULATOR)
#include <source_location>

#include "emulator/shared.h"
#endif

namespace halfops {

#if defined(HALFOPS_EMULATOR)

template <class Tag, class T, int kCount>
T (&shared_array(std::source_location where = std::source_location::current()))
[kCount] { return emulator::shared_array<Tag, T, kCount>(where); }

template <class T>
T* shared_bytes_as(std::source_location where = std::source_location::current()) {
    return static_cast<T*>(emulator::dynamic_shared(where));
}

#else

// An array in the block's shared memory, one for each tag: shared_array<struct Sums, float, 32>(). Its contents are
// undefined at first, and whoever uses it for a second purpose needs a barrier in between.
template <class Tag, class T, int kCount>
__device__ T (&shared_array()) [kCount] {
    __shared__ T array[kCount];
    return array;
}

// The bytes that the launch asked for (Grid::shared_bytes), aligned for every instruction that wants an alignment.
template <class T>
__device__ T* shared_bytes_as() {
    extern __shared__ __align__(1024) unsigned char bytes[];
    return reinterpret_cast<T*>(bytes);
}

#endif

}  // namespace halfops
