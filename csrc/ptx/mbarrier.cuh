// Barriers in shared memory that count arrivals and bytes: sm_90.
//
// A barrier is in a phase until `count` arrivals and as many bytes as were expected have come; then the next phase
// begins. Phases have parities 0, 1, 0, ...: wait(parity) returns once the phase of that parity is over, so a consumer
// begins with 0, and a producer whose slots are all free at first with 1.
//
// Arrivals release and waits acquire. PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier".
#pragma once

#include "ptx/address.cuh"
#include "ptx/caller.cuh"
#include "ptx/hopper.cuh"

#if defined(HALFOPS_EMULATOR)
#include "emulator/mbarrier.h"
#endif

namespace halfops::ptx {

// PTX ISA, "mbarrier.init": 1 to 2^20 - 1 arrivals a phase; by one thread, seen by others after fence_mbarrier_init and
// a barrier of the block (of the cluster, where other blocks arrive).
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, int count HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::mbarrier_init(barrier, count, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
#endif
}

// PTX ISA, "fence.mbarrier_init": initialised barriers become visible to the copy engine and to the cluster.
__device__ __forceinline__ void fence_mbarrier_init(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::fence_mbarrier_init(where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::mbarrier_arrive(barrier, 0, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

// An arrival that says how many bytes copies will bring in this phase.
__device__ __forceinline__ void mbarrier_arrive_expect_bytes(uint64_t* barrier, int bytes HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::mbarrier_arrive(barrier, bytes, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
#endif
}

// At the barrier that lies at the same place in block `rank` of the cluster. PTX ISA, "mapa".
__device__ __forceinline__ void mbarrier_arrive_at(uint64_t* barrier, unsigned rank HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::mbarrier_arrive_at(barrier, rank, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile(
        "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(barrier)),
        "r"(rank)
        : "memory");
#endif
}

// PTX ISA, "mbarrier.try_wait", again and again. What was arrived with in other blocks of the cluster is seen too.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, unsigned parity HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::mbarrier_wait(barrier, parity, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile(
        "{\n.reg .pred over;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
        "@over bra done;\nbra again;\ndone:\n}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
#endif
}

}  // namespace halfops::ptx
