// An optimizer step as csrc/optim has them: 16 bytes at a time where the tensors allow it, the rest one by one, and
// two sums over the tensor.
#pragma once

#include "collective/vector.cuh"
#include "core/dtype.h"
#include "kernels/block_sum.cuh"

namespace kernels {

using halfops::bf16;

struct Momentum {
    float learning_rate;
    float decay;
};

__device__ inline bf16 apply(Momentum rule, bf16 parameter, bf16 gradient, float& moment, float& squares) {
    moment = rule.decay * moment + halfops::to_f32(gradient);
    squares += moment * moment;
    return halfops::from_f32<bf16>(halfops::to_f32(parameter) - rule.learning_rate * moment);
}

struct alignas(16) Eight {
    bf16 element[8];
};

struct alignas(16) Four {
    float element[4];
};

__device__ inline bool aligned(const void* a, const void* b, const void* c) {
    const uint64_t bits = reinterpret_cast<uint64_t>(a) | reinterpret_cast<uint64_t>(b) | reinterpret_cast<uint64_t>(c);
    return bits % 16 == 0;
}

// sums[0] += the sum of squares of the new moments, sums[1] += that of the gradients.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) momentum_kernel(bf16* parameters, const bf16* gradients, float* moments,
                                                            int64_t numel, Momentum rule, float* sums) {
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
    const int64_t vectors = aligned(parameters, gradients, moments) ? numel / 8 : 0;
    float squares = 0.0f, gradient_squares = 0.0f;
    for (int64_t i = thread; i < vectors; i += threads) {
        Eight parameter = reinterpret_cast<const Eight*>(parameters)[i];
        const Eight gradient = reinterpret_cast<const Eight*>(gradients)[i];
        for (int half = 0; half < 2; ++half) {
            Four moment = reinterpret_cast<const Four*>(moments)[2 * i + half];
            for (int k = 0; k < 4; ++k) {
                bf16& value = parameter.element[4 * half + k];
                value = apply(rule, value, gradient.element[4 * half + k], moment.element[k], squares);
            }
            reinterpret_cast<Four*>(moments)[2 * i + half] = moment;
        }
        for (const bf16 value : gradient.element) {
            gradient_squares += halfops::to_f32(value) * halfops::to_f32(value);
        }
        reinterpret_cast<Eight*>(parameters)[i] = parameter;
    }
    for (int64_t i = vectors * 8 + thread; i < numel; i += threads) {
        parameters[i] = apply(rule, parameters[i], gradients[i], moments[i], squares);
        gradient_squares += halfops::to_f32(gradients[i]) * halfops::to_f32(gradients[i]);
    }
    squares = block_sum<kThreads>(squares);
    gradient_squares = block_sum<kThreads>(gradient_squares);
    if (threadIdx.x == 0) {
        atomicAdd(&sums[0], squares);
        atomicAdd(&sums[1], gradient_squares);
    }
}

}  // namespace kernels
