// Shared memory of a block. csrc/collective/shared.cuh calls these; kernels call that.
#pragma once

#include <cstddef>

#include "emulator/location.h"

namespace emulator {

// The same memory for every thread of the block that asks with the same key.
void* static_shared(const void* key, const char* name, size_t bytes, size_t alignment, Location where);
void* dynamic_shared(Location where);

// One array for each tag, type and length, as a `__shared__` array in a function template is.
template <class Tag, class T, int kCount>
T (&shared_array(Location where))
[kCount] {
    static constexpr char kKey = 0;
    return *static_cast<T(*)[kCount]>(static_shared(&kKey, __PRETTY_FUNCTION__, sizeof(T) * kCount, alignof(T), where));
}

}  // namespace emulator
