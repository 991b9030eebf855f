// 8x8 matrices of 16-bit elements from shared memory into the registers of a warp, as mma wants them: sm_75 and newer.
//
// All 32 lanes call it. Lane l gives the address of row l % 8 of matrix l / 8: 16 bytes, a multiple of 16. Register i
// of lane l then holds, of matrix i, the elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4, the first one in the lower
// half; with `trans` those of column l / 4. Without a second wavefront if the eight rows of a matrix lie in eight
// different (address / 16) % 8.
//
// PTX ISA, "Warp Level Matrix Instructions: ldmatrix". Volatile and with a clobber, so that no compiler moves it over a
// barrier or a store.
#pragma once

#include "ptx/address.cuh"
#include "ptx/caller.cuh"

#if defined(HALFOPS_EMULATOR)
#include "emulator/matrix.h"
#endif

namespace halfops::ptx {

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::load_matrices(r, 4, false, shared_row, where);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::load_matrices(r, 4, true, shared_row, where);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
#endif
}

// Two matrices: lanes 0 to 15 give the rows. On sm_75 the other lanes' addresses have to be valid ones too.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::load_matrices(r, 2, false, shared_row, where);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared_row HALFOPS_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::load_matrices(r, 2, true, shared_row, where);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
#endif
}

}  // namespace halfops::ptx
