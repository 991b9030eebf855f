// d (+)= a b by the tensor cores of a warpgroup, asynchronously: a is 64 x 16, b is 16 x kColumns, d in fp32. sm_90a.
//
// The four warps of a warpgroup, the first one's number a multiple of four, call it together. Both operands lie in
// shared memory with the 128-byte swizzle, as descriptors say; or a comes from registers. With warp w of the four,
// g = lane / 4, t = lane % 4:
//
//     d[4 j], d[4 j + 1] = (row 16 w + g,     columns 8 j + 2 t, 8 j + 2 t + 1)
//     d[4 j + 2], d[4 j + 3] = (row 16 w + g + 8, the same columns)
//
// which for each warp is what mma.m16n8k16 leaves, and a in registers is what that takes. In order: wgmma_fence, before
// the first and whenever registers were written; the products; wgmma_commit, which makes a group of them; wgmma_wait.
// Until then nobody may touch d, a's registers, or write the operands.
//
// PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions"; the layouts: "Matrix Descriptor", "Shared Memory Matrix
// Layout".
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "ptx/address.cuh"
#include "ptx/caller.cuh"
#include "ptx/hopper.cuh"

#if defined(HALFOPS_EMULATOR)
#include "emulator/wgmma.h"
#endif

namespace halfops::ptx {

// Where an operand lies: bits 0 to 13 are its address / 16, 16 to 29 and 32 to 45 two distances / 16, 62 and 63 say 1,
// the 128-byte swizzle. Rows are 128 bytes, eight of them 1024 bytes at a multiple of 1024.
//
// Lines along K: a row is 64 of K, the next eight rows of M (or N) come `stride` on, `leading` is not used; the next 16
// of K are 32 bytes on. Lines along M (or N): a row is 64 of M (or N), the next eight of K come `stride` on, the next
// 64 of M (or N) come `leading` on; the next 16 of K are two strides on.
__device__ __forceinline__ uint64_t wgmma_descriptor(const void* shared, int leading, int stride) {
#if defined(HALFOPS_EMULATOR)
    const uint32_t address = emulator::shared_window_address(shared);
#else
    const uint32_t address = shared_address(shared);
#endif
    const auto field = [](uint32_t bytes) { return static_cast<uint64_t>((bytes & 0x3ffff) >> 4); };
    return field(address) | field(static_cast<uint32_t>(leading)) << 16 | field(static_cast<uint32_t>(stride)) << 32 |
           uint64_t{1} << 62;
}

// A descriptor's address, `bytes` on: a multiple of 16.
__device__ __forceinline__ uint64_t advanced(uint64_t descriptor, int bytes) {
    return descriptor + static_cast<uint64_t>(bytes >> 4);
}

__device__ __forceinline__ void wgmma_fence(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::wgmma_fence(where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::wgmma_commit(where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Until at most kPending of the latest groups are under way.
template <int kPending>
__device__ __forceinline__ void wgmma_wait(HALFOPS_ONLY_CALLED_FROM) {
#if defined(HALFOPS_EMULATOR)
    emulator::wgmma_wait(kPending, where);
#elif HALFOPS_HAS_HOPPER
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#endif
}

// Keeps a compiler from moving what it does with accumulators over the wait, whose effect on them it does not know.
template <int kCount>
__device__ __forceinline__ void wgmma_settle(float (&d)[kCount]) {
#if !defined(HALFOPS_EMULATOR)
#pragma unroll
    for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

// What is in a register, by an instruction that stays where it is written: a choice among registers by branches must
// not become an index into an array in memory. kWhich differs from one branch to the next, or they would be merged.
template <int kWhich>
__device__ __forceinline__ float moved(float x) {
#if !defined(HALFOPS_EMULATOR)
    asm volatile("mov.f32 %0, %0;  // %1" : "+f"(x) : "n"(kWhich));
#endif
    return x;
}
template <int kWhich>
__device__ __forceinline__ uint32_t moved(uint32_t x) {
#if !defined(HALFOPS_EMULATOR)
    asm volatile("mov.b32 %0, %0;  // %1" : "+r"(x) : "n"(kWhich));
#endif
    return x;
}

#if HALFOPS_HAS_HOPPER && !defined(HALFOPS_EMULATOR)

// Operands %0 ... of the assembly, and the accumulators that they stand for.
#define HALFOPS_D4 "%0, %1, %2, %3"
#define HALFOPS_D32                                                        \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
    ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define HALFOPS_D64                                                                    \
    HALFOPS_D32                                                                        \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define HALFOPS_D96                                                                    \
    HALFOPS_D64                                                                        \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define HALFOPS_D128                                                                               \
    HALFOPS_D96                                                                                    \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define HALFOPS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define HALFOPS_16(i) HALFOPS_4(i), HALFOPS_4(i + 4), HALFOPS_4(i + 8), HALFOPS_4(i + 12)
#define HALFOPS_32(i) HALFOPS_16(i), HALFOPS_16(i + 16)
#define HALFOPS_OUT4 HALFOPS_4(0)
#define HALFOPS_OUT32 HALFOPS_32(0)
#define HALFOPS_OUT64 HALFOPS_OUT32, HALFOPS_32(32)
#define HALFOPS_OUT96 HALFOPS_OUT64, HALFOPS_32(64)
#define HALFOPS_OUT128 HALFOPS_OUT96, HALFOPS_32(96)

// One instruction: its columns, dtype, accumulators, and the numbers of the operands behind those.
#define HALFOPS_WGMMA(columns, dtype, count, a, b, added, turn_a, turn_b)                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #added                                                     \
                 ", 0;\n"                                                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #dtype "." #dtype " {" HALFOPS_D##count \
                 "}, %" #a ", %" #b ", p, 1, 1, %" #turn_a ", %" #turn_b ";\n}"                                  \
                 : HALFOPS_OUT##count                                                                            \
                 : "l"(a_at), "l"(b_at), "r"(accumulate ? 1 : 0), "n"(kTurnA), "n"(kTurnB))
#define HALFOPS_WGMMA_REGISTERS(columns, dtype, count, a0, a1, a2, a3, b, added, turn_b)                         \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #added                                                     \
                 ", 0;\n"                                                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #dtype "." #dtype " {" HALFOPS_D##count \
                 "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b ", p, 1, 1, %" #turn_b ";\n}"               \
                 : HALFOPS_OUT##count                                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b_at), "r"(accumulate ? 1 : 0), "n"(kTurnB))

template <int kColumns, bool kIsF16, int kTurnA, int kTurnB>
__device__ __forceinline__ void wgmma_instruction(float (&d)[kColumns / 2], uint64_t a_at, uint64_t b_at,
                                                  bool accumulate) {
    if constexpr (kColumns == 8 && kIsF16) {
        HALFOPS_WGMMA(8, f16, 4, 4, 5, 6, 7, 8);
    } else if constexpr (kColumns == 8 && !kIsF16) {
        HALFOPS_WGMMA(8, bf16, 4, 4, 5, 6, 7, 8);
    } else if constexpr (kColumns == 64 && kIsF16) {
        HALFOPS_WGMMA(64, f16, 32, 32, 33, 34, 35, 36);
    } else if constexpr (kColumns == 64 && !kIsF16) {
        HALFOPS_WGMMA(64, bf16, 32, 32, 33, 34, 35, 36);
    } else if constexpr (kColumns == 128 && kIsF16) {
        HALFOPS_WGMMA(128, f16, 64, 64, 65, 66, 67, 68);
    } else if constexpr (kColumns == 128 && !kIsF16) {
        HALFOPS_WGMMA(128, bf16, 64, 64, 65, 66, 67, 68);
    } else if constexpr (kColumns == 192 && kIsF16) {
        HALFOPS_WGMMA(192, f16, 96, 96, 97, 98, 99, 100);
    } else if constexpr (kColumns == 192 && !kIsF16) {
        HALFOPS_WGMMA(192, bf16, 96, 96, 97, 98, 99, 100);
    } else if constexpr (kColumns == 256 && kIsF16) {
        HALFOPS_WGMMA(256, f16, 128, 128, 129, 130, 131, 132);
    } else if constexpr (kColumns == 256 && !kIsF16) {
        HALFOPS_WGMMA(256, bf16, 128, 128, 129, 130, 131, 132);
    } else {
        static_assert(kColumns == 8, "a width that is written out above");
    }
}

template <int kColumns, bool kIsF16, int kTurnB>
__device__ __forceinline__ void wgmma_instruction(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b_at,
                                                  bool accumulate) {
    if constexpr (kColumns == 64 && kIsF16) {
        HALFOPS_WGMMA_REGISTERS(64, f16, 32, 32, 33, 34, 35, 36, 37, 38);
    } else if constexpr (kColumns == 64 && !kIsF16) {
        HALFOPS_WGMMA_REGISTERS(64, bf16, 32, 32, 33, 34, 35, 36, 37, 38);
    } else {
        static_assert(kColumns == 64, "a width that is written out above");
    }
}

#undef HALFOPS_D4
#undef HALFOPS_D32
#undef HALFOPS_D64
#undef HALFOPS_D96
#undef HALFOPS_D128
#undef HALFOPS_4
#undef HALFOPS_16
#undef HALFOPS_32
#undef HALFOPS_OUT4
#undef HALFOPS_OUT32
#undef HALFOPS_OUT64
#undef HALFOPS_OUT96
#undef HALFOPS_OUT128
#undef HALFOPS_WGMMA
#undef HALFOPS_WGMMA_REGISTERS

#endif

// d = a b, or d += a b if `accumulate`. kTurnA and kTurnB: 0, lines along K; 1, along M (or N).
template <class T, int kColumns, int kTurnA, int kTurnB>
__device__ __forceinline__ void wgmma(float (&d)[kColumns / 2], uint64_t a, uint64_t b,
                                      bool accumulate HALFOPS_CALLED_FROM) {
    static_assert(DTypeOf<T>::value == DType::f16 || DTypeOf<T>::value == DType::bf16, "16-bit formats");
#if defined(HALFOPS_EMULATOR)
    emulator::wgmma(DTypeOf<T>::value == DType::f16 ? emulator::Half::f16 : emulator::Half::bf16, d, kColumns, a,
                    kTurnA, b, kTurnB, accumulate, where);
#elif HALFOPS_HAS_HOPPER
    wgmma_instruction<kColumns, DTypeOf<T>::value == DType::f16, kTurnA, kTurnB>(d, a, b, accumulate);
#endif
}

// a from registers, 64 columns.
template <class T, int kColumns, int kTurnB>
__device__ __forceinline__ void wgmma(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b,
                                      bool accumulate HALFOPS_CALLED_FROM) {
    static_assert(DTypeOf<T>::value == DType::f16 || DTypeOf<T>::value == DType::bf16, "16-bit formats");
#if defined(HALFOPS_EMULATOR)
    emulator::wgmma(DTypeOf<T>::value == DType::f16 ? emulator::Half::f16 : emulator::Half::bf16, d, kColumns, a, b,
                    kTurnB, accumulate, where);
#elif HALFOPS_HAS_HOPPER
    wgmma_instruction<kColumns, DTypeOf<T>::value == DType::f16, kTurnB>(d, a, b, accumulate);
#endif
}

}  // namespace halfops::ptx
