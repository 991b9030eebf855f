// Is any element of a list of tensors infinite or NaN? One read, no host synchronisation.
//
// A warp takes chunks of 4096 elements, 16 bytes a thread and four of them in flight, looks at the magnitudes as
// integers, and raises the flag. Raising is a plain store of the same value by whoever found something, so the result
// does not depend on order.
#pragma once

#include "collective/vector.cuh"
#include "collective/warp.cuh"
#include "core/dtype.h"
#include "scale/span_table.h"

namespace halfops::scale {

inline constexpr unsigned kThreads = 256;
inline constexpr int kUnroll = 4;

// Two 16-bit magnitudes in one word, compared with the all-ones exponent without unpacking: a carry out of the 15 bits
// of either half means that it reached `infinity`.
__device__ __forceinline__ bool pair_nonfinite(uint32_t word, uint32_t infinity) {
    const uint32_t magnitude = word & 0x7fff7fffu;
    const uint32_t offset = 0x8000u - infinity;
    return ((magnitude + (offset | offset << 16)) & 0x80008000u) != 0;
}

template <class T>
__device__ __forceinline__ bool word_nonfinite(uint32_t word) {
    if constexpr (sizeof(T) == 4) return (word & 0x7fffffffu) >= 0x7f800000u;
    return pair_nonfinite(word, DTypeOf<T>::value == DType::f16 ? 0x7c00u : 0x7f80u);
}

template <class T>
__device__ bool chunk_nonfinite(int64_t address, int64_t numel, int64_t chunk) {
    const T* data = reinterpret_cast<const T*>(address);
    const Eights eights(chunk, numel, head_elements(data));
    data += chunk * kChunk;
    bool found = false;
    for (int base = lane_index(); eights.at(base) < eights.length; base += kWarpSize * kUnroll) {
        if (eights.are_whole(base, base + kWarpSize * (kUnroll - 1))) {
            Eight<T> loaded[kUnroll];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) loaded[u] = Eight<T>::load(data + eights.at(base + u * kWarpSize));
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
                for (int v = 0; v < Eight<T>::kVectors; ++v) {
#pragma unroll
                    for (int w = 0; w < 4; ++w) found |= word_nonfinite<T>(loaded[u].vector[v].word[w]);
                }
            }
        } else {
#pragma unroll 1
            for (int i = 0; i < kUnroll * kEight; ++i) {
                const int place = eights.at(base + i / kEight * kWarpSize) + i % kEight;
                if (eights.has(place)) found |= word_nonfinite<T>(bits_of_element(data[place]));
            }
        }
    }
    return found;
}

__global__ void __launch_bounds__(kThreads, 4) nonfinite_kernel(SpanTable list, float* found_inf) {
    bool found = false;
    for_each_chunk(list.chunks, [&](int64_t t, int64_t chunk, int64_t) {
        const int64_t numel = list.numel(t), address = list.addresses[t];
        switch (list.dtype(t)) {
            case DType::f16:
                found |= chunk_nonfinite<f16>(address, numel, chunk);
                break;
            case DType::bf16:
                found |= chunk_nonfinite<bf16>(address, numel, chunk);
                break;
            default:
                found |= chunk_nonfinite<float>(address, numel, chunk);
        }
    });
    if (__any_sync(kFullWarp, found) && lane_index() == 0) *found_inf = 1.0f;
}

}  // namespace halfops::scale
