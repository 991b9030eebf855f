// Addresses as instructions want them. The wrappers of this room take generic pointers and convert them here.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace halfops::ptx {

#if !defined(HALFOPS_EMULATOR)

// In the window of shared memory, 32 bits (PTX ISA, "State Spaces: Shared").
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ uint64_t global_address(const void* pointer) {
    return static_cast<uint64_t>(__cvta_generic_to_global(pointer));
}

#endif

}  // namespace halfops::ptx
