// Warps of one block with different work: barriers among some of them, one thread of a warp, registers that one group
// gives to another, kernels that overlap. sm_90.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ptx/caller.cuh"
#include "ptx/hopper.cuh"

#if defined(HALFOPS_EMULATOR)
#include "emulator/roles.h"
#endif

namespace halfops::ptx {

// This thread's number in its block, asked for anew: what follows from it is computed again too, where a compiler would
// rather keep it in registers from one turn of a loop to the next, and there are none.
__device__ __forceinline__ int thread_index_anew() {
#if defined(HALFOPS_EMULATOR)
    return static_cast<int>(threadIdx.x);
#else
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
#endif
}

// PTX ISA, "bar.sync": barrier `id` (1 to 15; 0 is __syncthreads') for kThreads threads, whole warps.
template <int kThreads>
__device__ __forceinline__ void named_barrier_sync(int id HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::named_barrier_sync(static_cast<unsigned>(id), kThreads, where);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
#endif
}

// PTX ISA, "bar.arrive": counted, but does not wait.
template <int kThreads>
__device__ __forceinline__ void named_barrier_arrive(int id HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::named_barrier_arrive(static_cast<unsigned>(id), kThreads, where);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
#endif
}

// PTX ISA, "setmaxnreg": by a whole warpgroup (four warps from a multiple of four on), in a kernel with a bound on its
// registers; a multiple of 8 from 24 to 256. Waits until so many are free.
template <int kRegisters>
__device__ __forceinline__ void take_registers(HALFOPS_ONLY_CALLED_FROM) {
    static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256, "what setmaxnreg takes");
#if defined(HALFOPS_EMULATOR)
    emulator::set_registers(kRegisters, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

template <int kRegisters>
__device__ __forceinline__ void give_registers(HALFOPS_ONLY_CALLED_FROM) {
    static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256, "what setmaxnreg takes");
#if defined(HALFOPS_EMULATOR)
    emulator::set_registers(kRegisters, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// PTX ISA, "griddepcontrol.wait": until the grids before this one in the stream are over and their writes are seen,
// where the launch allowed it to begin earlier.
__device__ __forceinline__ void wait_for_earlier_grids() {
#if HALFOPS_HAS_HOPPER && !defined(HALFOPS_EMULATOR)
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// PTX ISA, "griddepcontrol.launch_dependents": once all blocks have said so, the next grid may begin to run beside it.
__device__ __forceinline__ void let_next_grid_begin() {
#if HALFOPS_HAS_HOPPER && !defined(HALFOPS_EMULATOR)
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace halfops::ptx
