// 8x8 matrices of 16-bit elements from the registers of a warp to shared memory, as mma and wgmma leave them: sm_90.
//
// The counterpart of ldmatrix: all 32 lanes call it, lane l gives the address of row l % 8 of matrix l / 8, 16 bytes at
// a multiple of 16; register i of lane l holds, of matrix i, elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4. PTX
// ISA, "Warp Level Matrix Instructions: stmatrix".
#pragma once

#include "ptx/address.cuh"
#include "ptx/caller.cuh"
#include "ptx/hopper.cuh"

#if defined(HALFOPS_EMULATOR)
#include "emulator/matrix.h"
#endif

namespace halfops::ptx {

__device__ __forceinline__ void stmatrix_x4(void* shared_row, const uint32_t (&r)[4] HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::store_matrices(shared_row, r, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(shared_row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
#endif
}

}  // namespace halfops::ptx
