// Is any element of a list of tensors infinite or NaN? One read, no host synchronisation.
//
// Each block walks over every tensor with a grid-stride loop of 16-byte loads, four in flight per thread, keeps the
// largest magnitude as an integer, and raises the flag. Raising is a plain store of the same value by whoever found
// something, so the result does not depend on order.
#pragma once

#include "collective/vector.cuh"
#include "core/dtype.h"
#include "scale/scale.h"

namespace halfops::scale {

inline constexpr int kThreads = 256;
inline constexpr int kUnroll = 4;

// Two 16-bit magnitudes in one word, compared with the all-ones exponent without unpacking: a carry out of the 15 bits
// of either half means that it reached `infinity`.
__device__ inline bool pair_nonfinite(uint32_t word, uint32_t infinity) {
    const uint32_t magnitude = word & 0x7fff7fffu;
    const uint32_t offset = 0x8000u - infinity;
    return ((magnitude + (offset | offset << 16)) & 0x80008000u) != 0;
}

__device__ inline bool word_nonfinite(uint32_t word, DType dtype) {
    if (dtype == DType::f32) return (word & 0x7fffffffu) >= 0x7f800000u;
    return pair_nonfinite(word, dtype == DType::f16 ? 0x7c00u : 0x7f80u);
}

template <class Element>
__device__ bool scan(const void* data, int64_t numel, DType dtype) {
    const Element* elements = static_cast<const Element*>(data);
    const int64_t head = head_elements(elements, numel);
    const int64_t per_vector = sizeof(Vector16) / sizeof(Element);
    const int64_t vectors = (numel - head) / per_vector;
    const int64_t tail = head + vectors * per_vector;
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;

    bool found = false;
    for (int64_t i = thread; i < head; i += threads) found |= word_nonfinite(elements[i], dtype);
    for (int64_t i = tail + thread; i < numel; i += threads) found |= word_nonfinite(elements[i], dtype);

    const Vector16* body = reinterpret_cast<const Vector16*>(elements + head);
    for (int64_t base = thread; base < vectors; base += threads * kUnroll) {
        Vector16 loaded[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const int64_t i = base + u * threads;
            loaded[u] = i < vectors ? body[i] : Vector16{};
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
            for (int w = 0; w < 4; ++w) found |= word_nonfinite(loaded[u].word[w], dtype);
        }
    }
    return found;
}

__global__ void nonfinite_kernel(const Span* spans, int64_t count, float* found_inf) {
    bool found = false;
    for (int64_t t = 0; t < count; ++t) {
        const Span span = spans[t];
        found |= span.dtype == DType::f32 ? scan<uint32_t>(span.data, span.numel, span.dtype)
                                          : scan<uint16_t>(span.data, span.numel, span.dtype);
    }
    if (__syncthreads_or(found) && threadIdx.x == 0) *found_inf = 1.0f;
}

}  // namespace halfops::scale
