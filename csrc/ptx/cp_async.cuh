// Copies from global to shared memory that a thread starts and does not wait for: sm_80 and newer.
//
// What a copy writes may be read by the thread that started it after cp_async_wait, by others after a barrier on top.
// PTX ISA, "Data Movement and Conversion Instructions: Non-bulk copy".
#pragma once

#include "ptx/address.cuh"
#include "ptx/caller.cuh"

#if defined(HALFOPS_EMULATOR)
#include "emulator/async_copy.h"
#endif

namespace halfops::ptx {

// PTX ISA, "cp.async": 16 bytes, both addresses multiples of 16. Only the first `bytes` of them (0 to 16) are read, the
// rest of the 16 becomes zeros: with 0 the source is not touched, but stays aligned. `cg` keeps the data out of L1.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, int bytes HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::copy_async_16(shared, global, bytes, where);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    __trap();  // no kernel for such a device calls it
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global_address(global)), "r"(bytes)
                 : "memory");
#endif
}

// PTX ISA, "cp.async.commit_group": the copies that this thread has started since the last one are a group.
__device__ __forceinline__ void cp_async_commit() {
#if defined(HALFOPS_EMULATOR)
    emulator::commit_copies();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    __trap();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// PTX ISA, "cp.async.wait_group": until at most kPending of this thread's latest groups are in flight. Copies that are
// in no group yet are not waited for.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
    static_assert(kPending >= 0, "a number of groups");
#if defined(HALFOPS_EMULATOR)
    emulator::wait_for_copies(kPending);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    __trap();
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace halfops::ptx
