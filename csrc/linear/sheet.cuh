// The epilogue's matrices: eight neighbours of a row at a time, as floats.
#pragma once

#include "collective/vector.cuh"

namespace halfops::linear {

// A matrix of any of the three dtypes. data is null where the epilogue has none.
struct Sheet {
    void* data;
    int64_t row_stride, col_stride;
    DType dtype;
    bool vectors;  // every eight that is whole begins at a multiple of 16 bytes, its elements side by side
};

// Two neighbours as they lie in global memory, from an even column of a sheet with `vectors` on: in one access.
template <class T>
struct alignas(2 * sizeof(T)) Two {
    static constexpr int kWords = static_cast<int>(sizeof(T)) / 2;
    uint32_t word[kWords];

    __device__ __forceinline__ static Two load(const T* at) {
        return *in_global_memory(reinterpret_cast<const Two*>(at));
    }
    __device__ __forceinline__ void store(T* at) const { *in_global_memory(reinterpret_cast<Two*>(at)) = *this; }

    // x and y rounded; they become what is stored.
    __device__ __forceinline__ static Two rounded(float& x, float& y) {
        if constexpr (kWords == 1) {
            const Two two{pair_from_f32<T>(x, y)};
            x = two.first();
            y = two.second();
            return two;
        } else {
            return {bits_of(x), bits_of(y)};
        }
    }
    __device__ __forceinline__ float first() const {
        return to_f32(element_of<T>(kWords == 1 ? word[0] & 0xffffu : word[0]));
    }
    __device__ __forceinline__ float second() const {
        return to_f32(element_of<T>(kWords == 1 ? word[0] >> 16 : word[kWords - 1]));
    }
};

template <class S>
__device__ __forceinline__ void load_as(const Sheet& sheet, int64_t row, int64_t col, int count, float (&v)[kEight]) {
    const S* at = static_cast<const S*>(sheet.data) + row * sheet.row_stride + col * sheet.col_stride;
    if (sheet.vectors && count == kEight) {
        const Eight<S> eight = Eight<S>::load(at);
#pragma unroll
        for (int j = 0; j < kEight; ++j) v[j] = to_f32(element_of<S>(eight.bits(j)));
    } else {
#pragma unroll
        for (int j = 0; j < kEight; ++j) v[j] = j < count ? to_f32(in_global_memory(at)[j * sheet.col_stride]) : 0.0f;
    }
}

// Elements [col, col + count) of a row, and zeros.
__device__ __forceinline__ void load_eight(const Sheet& sheet, int64_t row, int64_t col, int count,
                                           float (&v)[kEight]) {
    if (sheet.dtype == DType::f32) {
        load_as<float>(sheet, row, col, count, v);
    } else if (sheet.dtype == DType::f16) {
        load_as<f16>(sheet, row, col, count, v);
    } else {
        load_as<bf16>(sheet, row, col, count, v);
    }
}

template <class S>
__device__ __forceinline__ void store_as(const Sheet& sheet, int64_t row, int64_t col, int count, float (&v)[kEight]) {
    S* at = static_cast<S*>(sheet.data) + row * sheet.row_stride + col;
    Eight<S> eight;
#pragma unroll
    for (int j = 0; j < kEight; j += 2) {
        const Two<S> two = Two<S>::rounded(v[j], v[j + 1]);
#pragma unroll
        for (int w = 0; w < Two<S>::kWords; ++w) eight.set_word(j * Two<S>::kWords / 2 + w, two.word[w]);
    }
    if (sheet.vectors && count == kEight) {
        eight.store(at);
    } else {
#pragma unroll
        for (int j = 0; j < kEight; ++j) {
            if (j < count) in_global_memory(at)[j] = element_of<S>(eight.bits(j));
        }
    }
}

// The other way, with unit column stride; leaves in v what was stored.
__device__ __forceinline__ void store_eight(const Sheet& sheet, int64_t row, int64_t col, int count,
                                            float (&v)[kEight]) {
    if (sheet.dtype == DType::f32) {
        store_as<float>(sheet, row, col, count, v);
    } else if (sheet.dtype == DType::f16) {
        store_as<f16>(sheet, row, col, count, v);
    } else {
        store_as<bf16>(sheet, row, col, count, v);
    }
}

template <int kCount>
__device__ __forceinline__ void round_all(DType dtype, float (&v)[kCount]) {
#pragma unroll
    for (int j = 0; j < kCount; j += 2) {
        if (dtype == DType::f16) {
            Two<f16>::rounded(v[j], v[j + 1]);
        } else if (dtype == DType::bf16) {
            Two<bf16>::rounded(v[j], v[j + 1]);
        }
    }
}

}  // namespace halfops::linear
