// Eight neighbours of an array at a time: in 16-byte accesses where they are whole and aligned, else one by one.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/chunks.h"
#include "core/dtype.h"
#include "core/macros.h"

namespace halfops {

struct alignas(16) Vector16 {
    uint32_t word[4];
};

inline constexpr int kEight = 8;

// The pointer, and a promise to the compiler. Tables hold addresses as integers, and where nothing says that they lead
// to global memory, loads and stores are generic ones, which ask at run time whether shared or local memory is meant.
template <class T>
__device__ __forceinline__ T* in_global_memory(T* pointer) {
#if defined(__CUDA_ARCH__)
    __builtin_assume(__isGlobal(pointer));
#endif
    return pointer;
}

template <class T>
HALFOPS_HD bool is_aligned(const T* at) {
    return reinterpret_cast<uint64_t>(at) % sizeof(Vector16) == 0;
}

// Eight elements as they lie in global memory, one 16-byte register group or two. Every index is known to the compiler
// once the loops around it are unrolled.
template <class T>
struct Eight {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "16-bit and 32-bit formats");
    static constexpr int kVectors = kEight * static_cast<int>(sizeof(T)) / static_cast<int>(sizeof(Vector16));
    Vector16 vector[kVectors];

    __device__ __forceinline__ uint32_t bits(int i) const {
        if constexpr (sizeof(T) == 4) return vector[i / 4].word[i % 4];
        return i % 2 == 0 ? vector[0].word[i / 2] & 0xffffu : vector[0].word[i / 2] >> 16;
    }
    // bits: no more than the element has.
    __device__ __forceinline__ void set_bits(int i, uint32_t bits) {
        if constexpr (sizeof(T) == 4) {
            vector[i / 4].word[i % 4] = bits;
        } else {
            const uint32_t word = vector[0].word[i / 2];
            vector[0].word[i / 2] = i % 2 == 0 ? (word & 0xffff0000u) | bits : (word & 0xffffu) | bits << 16;
        }
    }
    // Two 16-bit elements, or one of 32.
    __device__ __forceinline__ void set_word(int i, uint32_t word) { vector[i / 4].word[i % 4] = word; }

    __device__ __forceinline__ static Eight load(const T* at) {
        Eight loaded;
        const auto* vectors = in_global_memory(reinterpret_cast<const Vector16*>(at));
#pragma unroll
        for (int v = 0; v < kVectors; ++v) loaded.vector[v] = vectors[v];
        return loaded;
    }
    __device__ __forceinline__ void store(T* at) const {
        auto* vectors = in_global_memory(reinterpret_cast<Vector16*>(at));
#pragma unroll
        for (int v = 0; v < kVectors; ++v) vectors[v] = vector[v];
    }
    // The same by an intrinsic, which nvcc cannot cut into stores of a word each; nor can it move loads across. For
    // kernels that have registers to spare: those of the optimizers spill with it.
    __device__ __forceinline__ void store_whole(T* at) const {
        auto* vectors = reinterpret_cast<uint4*>(at);
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
            const uint32_t (&word)[4] = vector[v].word;
            __stwb(vectors + v, make_uint4(word[0], word[1], word[2], word[3]));
        }
    }
};

// Stored bits of one element, and back.
template <class T>
struct ElementOf {
    __device__ __forceinline__ static T from(uint32_t bits) { return T{static_cast<uint16_t>(bits)}; }
};
template <>
struct ElementOf<float> {
    __device__ __forceinline__ static float from(uint32_t bits) { return float_of(bits); }
};
template <>
struct ElementOf<int16_t> {
    __device__ __forceinline__ static int16_t from(uint32_t bits) {
        return static_cast<int16_t>(static_cast<uint16_t>(bits));
    }
};
template <class T>
__device__ __forceinline__ T element_of(uint32_t bits) {
    return ElementOf<T>::from(bits);
}
__device__ __forceinline__ uint32_t bits_of_element(float x) { return bits_of(x); }
__device__ __forceinline__ uint32_t bits_of_element(f16 x) { return x.bits; }
__device__ __forceinline__ uint32_t bits_of_element(bf16 x) { return x.bits; }
__device__ __forceinline__ uint32_t bits_of_element(int16_t x) { return static_cast<uint16_t>(x); }

// A chunk cut into eights that begin where an aligned address lies `head` elements behind the chunk's begin. Thread
// `lane` of a warp takes the eights lane, lane + 32, ...: the first may lack elements before the chunk, the last ones
// behind it. All places are elements from the chunk's begin, where `data + chunk * kChunk` points.
struct Eights {
    int length;   // of the chunk
    int missing;  // what eight 0 lacks at its front: it begins at -missing

    __device__ __forceinline__ Eights(int64_t chunk, int64_t numel, int head)
        : length(static_cast<int>(smaller(kChunk, numel - chunk * kChunk))), missing(head > 0 ? kEight - head : 0) {}

    __device__ __forceinline__ int at(int eight) const { return eight * kEight - missing; }
    // Whether the eights from first to last are inside the chunk.
    __device__ __forceinline__ bool are_whole(int first, int last) const {
        return at(first) >= 0 && at(last) + kEight <= length;
    }
    __device__ __forceinline__ bool has(int place) const { return place >= 0 && place < length; }
};

// Elements before the first 16-byte boundary of an array. A chunk's length is a multiple of 16 bytes, so this is the
// same for all of them.
template <class T>
HALFOPS_HD int head_elements(const T* data) {
    const uint64_t past = reinterpret_cast<uint64_t>(data) % sizeof(Vector16);
    return past == 0 ? 0 : static_cast<int>((sizeof(Vector16) - past) / sizeof(T));
}

}  // namespace halfops
