// One mistake a function: what the emulator has to name. `kMistakes` at the end is the list.
#pragma once

#include <cuda_runtime.h>

#include "collective/shared.cuh"

namespace kernels {

struct Memory {
    float* floats;
    uint32_t* words;
};

__device__ inline void barrier_after_exit(Memory) {
    if (threadIdx.x == 3) return;
    __syncthreads();
}

__device__ inline void divergent_barrier(Memory) {
    if (threadIdx.x < 7) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

__device__ inline void barrier_and_shuffle(Memory memory) {
    if (threadIdx.x == 5 || threadIdx.x >= 32) {
        __syncthreads();
    } else {
        memory.words[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1u, 1);
    }
}

__device__ inline void lane_not_in_mask(Memory) { __syncwarp(0xfffffffeu); }

__device__ inline void overlapping_masks(Memory) { __syncwarp(threadIdx.x % 32 < 8 ? 0x00000fffu : 0xffffffffu); }

__device__ inline void divergent_vote(Memory memory) {
    if (threadIdx.x % 2 == 0) {
        memory.words[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
    } else {
        memory.words[threadIdx.x] = __any_sync(0xffffffffu, 1);
    }
}

__device__ inline void shuffle_from_outside(Memory memory) {
    if (threadIdx.x < 16) memory.words[threadIdx.x] = __shfl_sync(0x0000ffffu, 1u, 20);
}

__device__ inline void shuffle_with_exited_lane(Memory memory) {
    if (threadIdx.x == 0) return;
    memory.words[threadIdx.x] = __shfl_sync(0xffffffffu, 1u, 0);
}

__device__ inline void exit_before_shuffle(Memory memory) {
    if (threadIdx.x == 31) return;
    memory.words[threadIdx.x] = __shfl_sync(0xffffffffu, 1u, 0);
}

__device__ inline void bad_width(Memory memory) { memory.words[threadIdx.x] = __shfl_sync(0xffffffffu, 1u, 0, 12); }

__device__ inline void misaligned_atomic(Memory memory) {
    char* bytes = reinterpret_cast<char*>(memory.words);
    atomicAdd(reinterpret_cast<unsigned*>(bytes + 2), 1u);
}

__device__ inline void no_dynamic_memory(Memory) { halfops::shared_bytes_as<float>()[0] = 1.0f; }

__device__ inline void too_much_shared_memory(Memory) {
    halfops::shared_array<struct Large, double, 6000>()[0] = 1.0;
    halfops::shared_array<struct Small, double, 200>()[0] = 1.0;
}

__device__ inline void write_behind_an_array(Memory) {
    float* values = halfops::shared_array<struct Values, float, 8>();
    if (threadIdx.x == 8) values[threadIdx.x] = 1.0f;
}

__device__ inline void named_barrier_of_few(Memory) { emulator::named_barrier_sync(1, 40); }

__device__ inline void named_barrier_counts_differ(Memory) {
    emulator::named_barrier_sync(1, threadIdx.x < 32 ? 32u + 32u : 96u);
}

__device__ inline void named_barrier_twice(Memory) {
    emulator::named_barrier_arrive(2, 64);
    emulator::named_barrier_arrive(2, 64);
}

__device__ inline void no_such_barrier(Memory) { emulator::named_barrier_sync(16, 64); }

__device__ inline void waits_for_nobody(Memory) {
    if (threadIdx.x < 32) emulator::named_barrier_sync(3, 64);
}

__device__ inline void stops_itself(Memory) {
    if (threadIdx.x == 9) __trap();
}

__device__ inline void polls_for_nothing(Memory memory) {
    while (atomicAdd(memory.words, 0u) == 0u) __nanosleep(100);
}

// About 300 KiB.
__device__ inline float overflow_the_stack(Memory memory, int depth) {
    volatile float frame[256];
    frame[depth % 256] = memory.floats[0];
    return depth == 0 ? frame[0] : overflow_the_stack(memory, depth - 1) + frame[depth % 256];
}

__device__ inline void stack_overflow(Memory memory) { memory.floats[0] = overflow_the_stack(memory, 300); }

struct Mistake {
    const char* name;
    void (*device_function)(Memory memory);
};

inline constexpr Mistake kMistakes[] = {
    {"barrier_after_exit", barrier_after_exit},
    {"divergent_barrier", divergent_barrier},
    {"barrier_and_shuffle", barrier_and_shuffle},
    {"lane_not_in_mask", lane_not_in_mask},
    {"overlapping_masks", overlapping_masks},
    {"divergent_vote", divergent_vote},
    {"shuffle_from_outside", shuffle_from_outside},
    {"shuffle_with_exited_lane", shuffle_with_exited_lane},
    {"exit_before_shuffle", exit_before_shuffle},
    {"bad_width", bad_width},
    {"misaligned_atomic", misaligned_atomic},
    {"no_dynamic_memory", no_dynamic_memory},
    {"too_much_shared_memory", too_much_shared_memory},
    {"write_behind_an_array", write_behind_an_array},
    {"named_barrier_of_few", named_barrier_of_few},
    {"named_barrier_counts_differ", named_barrier_counts_differ},
    {"named_barrier_twice", named_barrier_twice},
    {"no_such_barrier", no_such_barrier},
    {"waits_for_nobody", waits_for_nobody},
    {"stops_itself", stops_itself},
    {"polls_for_nothing", polls_for_nothing},
    {"stack_overflow", stack_overflow},
};

__global__ void mistake_kernel(void (*device_function)(Memory memory), Memory memory) { device_function(memory); }

}  // namespace kernels
