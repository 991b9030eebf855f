// Tiles of a tensor between global and shared memory by the copy engine: sm_90. One thread starts a copy.
//
// A TensorMap describes a tensor of three dimensions, the first one's elements side by side, and a box of it that one
// copy moves (collective/tensor_map.cuh makes them). What a load finds outside of the tensor becomes zeros, which count
// as bytes; what a store has for there is dropped. With the 128-byte swizzle a box is 128 bytes wide, and the 16-byte
// chunk c of its row r lies at chunk c ^ (r % 8): address bits 4 to 6 ^= bits 7 to 9, so boxes begin at multiples of
// 1024 bytes.
//
// The copy engine sees shared memory through a proxy of its own: what threads have written there with ordinary stores,
// fence_proxy_async by each of them and a barrier show it.
//
// PTX ISA, "Data Movement and Conversion Instructions: Tensor copy".
#pragma once

#include "ptx/address.cuh"
#include "ptx/caller.cuh"
#include "ptx/hopper.cuh"
#include "ptx/tensor_map.h"

#if defined(HALFOPS_EMULATOR)
#include "emulator/tma.h"
#endif

namespace halfops::ptx {

// PTX ISA, "cp.async.bulk.tensor", to shared memory: the box at (c0, c1, c2); its bytes are counted by the barrier.
__device__ __forceinline__ void tma_load(void* shared, const TensorMap& map, int c0, int c1, int c2,
                                         uint64_t* barrier HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::tma_load(shared, &map, c0, c1, c2, barrier, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
        "[%5];" ::"r"(shared_address(shared)),
        "l"(&map), "r"(c0), "r"(c1), "r"(c2), "r"(shared_address(barrier))
        : "memory");
#endif
}

// The same box to the same place in every block of the cluster whose bit is set in `blocks`, counted by each one's
// barrier at the same place.
__device__ __forceinline__ void tma_load_multicast(void* shared, const TensorMap& map, int c0, int c1, int c2,
                                                   uint64_t* barrier, uint16_t blocks HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::tma_load_multicast(shared, &map, c0, c1, c2, barrier, blocks, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
        "[%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(shared)),
        "l"(&map), "r"(c0), "r"(c1), "r"(c2), "r"(shared_address(barrier)), "h"(blocks)
        : "memory");
#endif
}

// PTX ISA, "cp.async.bulk.tensor", to global memory; belongs to this thread's next group.
__device__ __forceinline__ void tma_store(const TensorMap& map, int c0, int c1, int c2,
                                          const void* shared HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::tma_store(&map, c0, c1, c2, shared, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(&map),
                 "r"(c0), "r"(c1), "r"(c2), "r"(shared_address(shared))
                 : "memory");
#endif
}

// PTX ISA, "cp.reduce.async.bulk.tensor" with .add: each element is added to what is there, in the tensor's dtype.
__device__ __forceinline__ void tma_add(const TensorMap& map, int c0, int c1, int c2,
                                        const void* shared HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::tma_add(&map, c0, c1, c2, shared, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile(
        "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(&map),
        "r"(c0), "r"(c1), "r"(c2), "r"(shared_address(shared))
        : "memory");
#endif
}

// PTX ISA, "cp.async.bulk.commit_group": the stores that this thread has started since the last one are a group.
__device__ __forceinline__ void tma_commit(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::tma_commit(where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// PTX ISA, "cp.async.bulk.wait_group.read": until at most kPending of this thread's latest groups still have to read
// shared memory. A thread may not exit before all have.
template <int kPending>
__device__ __forceinline__ void tma_wait_read(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::tma_wait(kPending, true, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
#endif
}

// PTX ISA, "cp.async.bulk.wait_group": until at most kPending of them are not yet written.
template <int kPending>
__device__ __forceinline__ void tma_wait(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::tma_wait(kPending, false, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// PTX ISA, "prefetch.tensormap".
__device__ __forceinline__ void prefetch_tensor_map(const TensorMap& map HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::prefetch_tensor_map(&map, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

// PTX ISA, "fence.proxy.async": this thread's ordinary accesses to shared memory come before what the copy engine and
// wgmma do there after the next barrier.
__device__ __forceinline__ void fence_proxy_async(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::fence_proxy_async(where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace halfops::ptx
