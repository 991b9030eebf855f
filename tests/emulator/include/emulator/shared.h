// Shared memory of a block. csrc/collective/shared.cuh calls these; kernels call that.
#pragma once

#include <cstddef>

#include "emulator/location.h"

namespace emulator {

// The same memory for every thread of the block that asks with the same key.
void* static_shared(const void* key, const char* name, size_t bytes, size_t alignment, Location where);
void* dynamic_shared(Location where);

// The tag, the type and the length, for error messages.
template <class Tag, class T, int kCount>
constexpr const char* array_name() {
    return __PRETTY_FUNCTION__;
}

// One array for each tag, type and length, as a `__shared__` array in a function template is.
template <class Tag, class T, int kCount>
T (&shared_array(Location where))
[kCount] {
    static constexpr char kKey = 0;
    const char* name = array_name<Tag, T, kCount>();
    return *static_cast<T(*)[kCount]>(static_shared(&kKey, name, sizeof(T) * kCount, alignof(T), where));
}

}  // namespace emulator
