// The blocks of a cluster, which run at the same time and reach each other's shared memory: sm_90.
//
// PTX ISA, "barrier.cluster": every thread of every block arrives and waits, in turn. What was done before an arrival,
// in whichever block, is seen after the wait.
#pragma once

#include <cstdint>

#include "ptx/caller.cuh"
#include "ptx/hopper.cuh"

#if defined(HALFOPS_EMULATOR)
#include "emulator/cluster.h"
#endif

namespace halfops::ptx {

// This block's place in its cluster.
__device__ __forceinline__ unsigned cluster_rank(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    return emulator::cluster_rank(where);
#elif HALFOPS_HAS_HOPPER
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#else
    return 0;
#endif
}

__device__ __forceinline__ void cluster_arrive(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::cluster_arrive(where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::cluster_wait(where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Numbers in the shared memory of block `rank`, at the place where `mine` lies in this one's. Between two meetings of
// the cluster at which both blocks still run. PTX ISA, "ld.shared::cluster".
__device__ __forceinline__ float load_from_block(const float* mine, unsigned rank HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    return emulator::load_from_block(mine, rank, where);
#elif HALFOPS_HAS_HOPPER
    float value;
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %1, %2;\nld.shared::cluster.f32 %0, [there];\n}"
                 : "=f"(value)
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(mine))), "r"(rank)
                 : "memory");
    return value;
#else
    return *mine;
#endif
}

}  // namespace halfops::ptx
