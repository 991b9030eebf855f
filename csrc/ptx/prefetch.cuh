// Hints: they change no value, and an address that nobody may read does no harm.
#pragma once

#include "ptx/address.cuh"

namespace halfops::ptx {

// PTX ISA, "prefetch": the line at this address of global memory on its way to the second-level cache.
__device__ __forceinline__ void prefetch_l2(const void* global) {
#if defined(HALFOPS_EMULATOR)
    static_cast<void>(global);
#else
    asm volatile("prefetch.global.L2 [%0];" ::"l"(global_address(global)));
#endif
}

}  // namespace halfops::ptx
