// Masters to weights and back, and casts with the rounding named: one thread an element, for checkpoints and tests.
#pragma once

#include <cuda_runtime.h>

#include "core/rng.h"
#include "math/master.h"
#include "math/rounding.h"
#include "optim/optim.h"

namespace halfops::optim {

inline constexpr unsigned kFormatThreads = 256;

template <class F>
__device__ __forceinline__ void for_each_element(int64_t n, const F& f) {
    const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += threads) f(i);
}

template <class T>
__global__ void split_kernel(const float* master, T* weight, int16_t* remainder, int64_t n) {
    for_each_element(n, [=](int64_t i) {
        weight[i] = MasterSplit<T>::weight(master[i]);
        remainder[i] = MasterSplit<T>::extra(master[i], to_f32(weight[i]));
    });
}

template <class T>
__global__ void join_kernel(const T* weight, const int16_t* remainder, float* master, int64_t n) {
    for_each_element(n, [=](int64_t i) { master[i] = MasterSplit<T>::load(to_f32(weight[i]), remainder[i]); });
}

template <class From, class To>
__global__ void cast_kernel(cpu::Cast cast, const From* source, To* target, int64_t n) {
    for_each_element(n, [=](int64_t i) {
        const float value = to_f32(source[i]);
        if (cast.rounding == Rounding::nearest) {
            target[i] = from_f32<To>(value);
        } else {
            target[i] = from_f32_stochastic<To>(value, random_bits(cast.seed, cast.step, i, cast.key));
        }
    });
}

}  // namespace halfops::optim
