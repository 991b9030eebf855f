// How a thread's chunks come to shared memory: by cp.async, or through registers.
#pragma once

#include "collective/vector.cuh"
#include "linear/lines.cuh"
#include "linear/policy.h"
#include "ptx/cp_async.cuh"

namespace halfops::linear {

// The bytes of an operand that may be read at all.
struct Bounds {
    uint64_t begin, end;
};

// Sixteen bytes in flight need no register. Lines begin at multiples of 16 bytes, their elements are neighbours.
template <class Lines>
class AsyncCopy {
  public:
    __device__ __forceinline__ static void issue(const Lines& lines, char* tile) {
#pragma unroll
        for (int i = 0; i < Lines::kCount; ++i) {
            if (lines.has(i)) ptx::cp_async_16(tile + lines.offset(i), lines.source(i), lines.elements(i) * 2);
        }
    }
    // The stage in which K ends. A loop, so that the compiler branches around it: predicated, it would take issue slots
    // in all the other stages.
    __device__ __forceinline__ static void issue(const Lines& lines, int depth, char* tile) {
#pragma unroll 1
        for (int i = 0; i < Lines::kCount; ++i) {
            if (lines.has(i)) ptx::cp_async_16(tile + lines.offset(i), lines.source(i), lines.elements(i, depth) * 2);
        }
    }
};

// The elements of a chunk that exist, the others 0: one by one.
template <class T>
__device__ __forceinline__ Vector16 gather(const char* from, int64_t stride, int elements) {
    const T* at = in_global_memory(reinterpret_cast<const T*>(from));
    Eight<T> chunk;
#pragma unroll
    for (int w = 0; w < 4; ++w) chunk.vector[0].word[w] = 0;
#pragma unroll
    for (int j = 0; j < kChunkElements; ++j) {
        if (j < elements) chunk.set_bits(j, bits_of_element(at[j * stride]));
    }
    return chunk.vector[0];
}

// Sixteen bytes from an address that is a multiple of 2: out of the two aligned sixteens around them. Loads of
// neighbouring threads overlap, so most of the second ones come from L1.
__device__ __forceinline__ Vector16 straddling(const char* from) {
    const auto shift = reinterpret_cast<uint64_t>(from) % kChunkBytes;
    const auto* aligned = in_global_memory(reinterpret_cast<const Vector16*>(from - shift));
    const Vector16 low = aligned[0], high = aligned[1];
    uint32_t word[8];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        word[w] = low.word[w];
        word[w + 4] = high.word[w];
    }
#pragma unroll
    for (int w = 0; w < 6; ++w) word[w] = (shift & 8) != 0 ? word[w + 2] : word[w];
#pragma unroll
    for (int w = 0; w < 5; ++w) word[w] = (shift & 4) != 0 ? word[w + 1] : word[w];
    Vector16 chunk;
#pragma unroll
    for (int w = 0; w < 4; ++w) chunk.word[w] = (shift & 2) != 0 ? word[w] >> 16 | word[w + 1] << 16 : word[w];
    return chunk;
}

template <class T, class Lines>
class StagedCopy {
  public:
    // stride: elements from one to the next along a line.
    __device__ __forceinline__ void fetch(const Lines& lines, int depth, int64_t stride, const Bounds& bounds) {
#pragma unroll
        for (int i = 0; i < Lines::kCount; ++i) {
            if (!lines.has(i)) continue;
            const char* from = lines.source(i);
            const int elements = lines.elements(i, depth);
            const uint64_t address = reinterpret_cast<uint64_t>(from), shift = address % kChunkBytes;
            const bool whole = elements == kChunkElements && stride == 1;
            if (whole && shift == 0) {
                chunks_[i] = *in_global_memory(reinterpret_cast<const Vector16*>(from));
            } else if (whole && address - shift >= bounds.begin && address - shift + 2 * kChunkBytes <= bounds.end) {
                chunks_[i] = straddling(from);
            } else {
                chunks_[i] = gather<T>(from, stride, elements);
            }
        }
    }
    __device__ __forceinline__ void store(const Lines& lines, char* tile) const {
#pragma unroll
        for (int i = 0; i < Lines::kCount; ++i) {
            if (lines.has(i)) *reinterpret_cast<Vector16*>(tile + lines.offset(i)) = chunks_[i];
        }
    }

  private:
    Vector16 chunks_[Lines::kCount];
};

}  // namespace halfops::linear
