// Atomic operations of all threads of a grid on the same few words.
#pragma once

#include <cuda_runtime.h>

namespace kernels {

struct Counters {
    unsigned added, wrapped, bits, owner;
    int smallest, largest;
    float total;
    unsigned long long wide;
};

__global__ void counters_kernel(Counters* counters, unsigned* tickets) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    tickets[atomicAdd(&counters->added, 1u)] = thread;
    atomicInc(&counters->wrapped, 9u);
    atomicOr(&counters->bits, 1u << thread % 32);
    atomicMin(&counters->smallest, 100 - static_cast<int>(thread));
    atomicMax(&counters->largest, static_cast<int>(thread));
    atomicAdd(&counters->total, 0.5f);
    atomicAdd(&counters->wide, 1ull << 32);
    atomicCAS(&counters->owner, 0u, thread + 1);
}

// The last block to arrive adds up what all have left.
__global__ void last_block_kernel(const float* in, float* partial, unsigned* arrived, float* out) {
    partial[blockIdx.x] = in[blockIdx.x];
    __threadfence();
    if (atomicAdd(arrived, 1u) != gridDim.x - 1) return;
    __threadfence();
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += partial[i];
    *out = sum;
}

// Threads take turns, each polling for its own; `out` is the order in which they had it.
__global__ void turns_kernel(unsigned* turn, unsigned* out) {
    const unsigned wanted = blockDim.x - 1 - threadIdx.x;
    while (atomicAdd(turn, 0u) != wanted) __nanosleep(100);
    out[wanted] = threadIdx.x;
    __threadfence();
    atomicAdd(turn, 1u);
}

}  // namespace kernels
