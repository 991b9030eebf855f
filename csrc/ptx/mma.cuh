// d += a b by the tensor cores of a warp: a is 16 x 16, b is 16 x 8, d is 16 x 8 in fp32. f16 needs sm_75, bf16 sm_80.
//
// All 32 lanes call it. With g = lane / 4 and t = lane % 4, and two elements a register, the lower half first:
//
//     a[0] = (row g,     columns 2t, 2t + 1)        b[0] = (rows 2t, 2t + 1,     column g)
//     a[1] = (row g + 8, columns 2t, 2t + 1)        b[1] = (rows 2t + 8, 2t + 9, column g)
//     a[2] = (row g,     columns 2t + 8, 2t + 9)    d[0], d[1] = (row g,     columns 2t, 2t + 1)
//     a[3] = (row g + 8, columns 2t + 8, 2t + 9)    d[2], d[3] = (row g + 8, columns 2t, 2t + 1)
//
// PTX ISA, "Warp Level Matrix Instructions: Matrix Fragments for mma.m16n8k16" and "... mma.m16n8k8".
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "ptx/caller.cuh"

#if defined(HALFOPS_EMULATOR)
#include "emulator/matrix.h"
#else
#include <cuda_runtime.h>
#endif

namespace halfops::ptx {

#if defined(HALFOPS_EMULATOR)

template <class T>
inline constexpr emulator::Half kEmulated =
    DTypeOf<T>::value == DType::f16 ? emulator::Half::f16 : emulator::Half::bf16;

#else

// mma.m16n8k8: the same maps with half the columns of a and half the rows of b.
template <class T>
__device__ __forceinline__ void mma_m16n8k8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    if constexpr (DTypeOf<T>::value == DType::f16) {
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a0), "r"(a1), "r"(b0));
    } else {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
        __trap();  // no kernel for such a device calls it
#else
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a0), "r"(a1), "r"(b0));
#endif
    }
}

#endif

// The product as two mma.m16n8k8, which is all that sm_75 has; named, so that newer devices can test it.
template <class T>
__device__ __forceinline__ void mma_m16n8k8_pair(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2] HALFOPS_CALLED_FROM) {
    static_assert(DTypeOf<T>::value == DType::f16 || DTypeOf<T>::value == DType::bf16, "16-bit formats");
#if defined(HALFOPS_EMULATOR)
    emulator::multiply_add(kEmulated<T>, emulator::Steps::two_of_8, d, a, b, where);
#else
    mma_m16n8k8<T>(d, a[0], a[1], b[0]);
    mma_m16n8k8<T>(d, a[2], a[3], b[1]);
#endif
}

// mma.m16n8k16, on sm_75 the pair.
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2] HALFOPS_CALLED_FROM) {
    static_assert(DTypeOf<T>::value == DType::f16 || DTypeOf<T>::value == DType::bf16, "16-bit formats");
#if defined(HALFOPS_EMULATOR)
    emulator::multiply_add(kEmulated<T>, emulator::Steps::one_of_16, d, a, b, where);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    mma_m16n8k8_pair<T>(d, a, b);
#else
    if constexpr (DTypeOf<T>::value == DType::f16) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
#endif
}

}  // namespace halfops::ptx
