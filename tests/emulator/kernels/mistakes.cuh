// One mistake a function: what the emulator has to name. `kMistakes` at the end is the list.
#pragma once

#include <cuda_runtime.h>

#include "collective/shared.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

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

// 16 bytes for each of 64 threads.
__device__ inline uint4* pieces() { return halfops::shared_array<struct Pieces, uint4, 64>(); }

__device__ inline void finish_copies() {
    halfops::ptx::cp_async_commit();
    halfops::ptx::cp_async_wait<0>();
}

__device__ inline void copy_to_global_memory(Memory memory) {
    halfops::ptx::cp_async_16(memory.words, memory.floats, 16);
}

__device__ inline void copy_from_shared_memory(Memory) { halfops::ptx::cp_async_16(pieces(), pieces() + 1, 16); }

__device__ inline void copy_over_the_end(Memory memory) {
    halfops::ptx::cp_async_16(pieces() + threadIdx.x + 1, memory.floats, 16);
    finish_copies();
}

__device__ inline void copy_to_a_misaligned_place(Memory memory) {
    halfops::ptx::cp_async_16(reinterpret_cast<float*>(pieces()) + 1, memory.floats, 16);
}

__device__ inline void copy_from_a_misaligned_place(Memory memory) {
    halfops::ptx::cp_async_16(pieces(), memory.floats + 2, 0);
}

__device__ inline void copy_of_too_many_bytes(Memory memory) { halfops::ptx::cp_async_16(pieces(), memory.floats, 17); }

__device__ inline void copy_of_fewer_than_no_bytes(Memory memory) {
    halfops::ptx::cp_async_16(pieces(), memory.floats, -4);
}

__device__ inline void copy_without_a_wait(Memory memory) {
    halfops::ptx::cp_async_16(pieces() + threadIdx.x, memory.floats, 16);
    halfops::ptx::cp_async_commit();
    halfops::ptx::cp_async_wait<1>();
}

__device__ inline void copy_in_no_group(Memory memory) {
    halfops::ptx::cp_async_16(pieces() + threadIdx.x, memory.floats, 16);
    halfops::ptx::cp_async_wait<0>();
}

// `floats` has 64 elements: thread 16 is the first one beside it, and the last ones read nothing of theirs.
__device__ inline void copy_beside_the_source(Memory memory) {
    halfops::ptx::cp_async_16(pieces() + threadIdx.x, memory.floats + threadIdx.x * 4, threadIdx.x <= 16 ? 16 : 0);
    finish_copies();
}

__device__ inline void no_barrier_after_the_copy(Memory memory) {
    halfops::ptx::cp_async_16(pieces() + threadIdx.x, memory.floats, 16);
    finish_copies();
    memory.words[threadIdx.x] = pieces()[threadIdx.x ^ 32].x;
}

// The second group is used, the first one waited for.
__device__ inline void wait_for_too_few_groups(Memory memory) {
    uint4* second = halfops::shared_array<struct Second, uint4, 64>();
    halfops::ptx::cp_async_16(pieces() + threadIdx.x, memory.floats, 16);
    halfops::ptx::cp_async_commit();
    halfops::ptx::cp_async_16(second + threadIdx.x, memory.floats, 16);
    halfops::ptx::cp_async_commit();
    halfops::ptx::cp_async_wait<1>();
    __syncthreads();
    memory.words[threadIdx.x] = pieces()[threadIdx.x ^ 32].x;
    memory.words[threadIdx.x] = second[threadIdx.x ^ 32].x;
    __syncthreads();
    halfops::ptx::cp_async_wait<0>();
}

__device__ inline void no_barrier_before_the_matrices(Memory memory) {
    pieces()[threadIdx.x] = {0, 0, 0, 0};
    uint32_t r[4];
    halfops::ptx::ldmatrix_x4(r, pieces() + (threadIdx.x ^ 1));
    memory.words[threadIdx.x] = r[0];
}

// The source changes while it may still be read.
__device__ inline void source_written_before_the_wait(Memory memory) {
    halfops::ptx::cp_async_16(pieces() + threadIdx.x, memory.floats + threadIdx.x / 4 * 4, 16);
    halfops::ptx::cp_async_commit();
    __syncthreads();
    memory.floats[threadIdx.x] = 1.0f;
    halfops::ptx::cp_async_wait<0>();
}

__device__ inline void matrix_row_misaligned(Memory) {
    uint32_t r[2];
    halfops::ptx::ldmatrix_x2(r, reinterpret_cast<const char*>(pieces() + threadIdx.x % 8) + threadIdx.x % 16);
}

__device__ inline void matrix_row_in_global_memory(Memory memory) {
    uint32_t r[4];
    halfops::ptx::ldmatrix_x4_trans(r, threadIdx.x % 32 == 9 ? memory.words : &pieces()->x);
}

// Lanes 16 to 31 give no row, but on sm_75 a valid address.
__device__ inline void address_that_only_some_devices_ignore(Memory memory) {
    uint32_t r[2];
    halfops::ptx::ldmatrix_x2_trans(r, threadIdx.x % 32 < 16 ? &pieces()->x : memory.words);
}

__device__ inline void divergent_matrices(Memory) {
    uint32_t r[4];
    if (threadIdx.x % 2 == 0) {
        halfops::ptx::ldmatrix_x4(r, pieces());
    } else {
        halfops::ptx::ldmatrix_x4(r, pieces() + 1);
    }
}

template <class T>
__device__ inline void product(Memory memory) {
    const uint32_t a[4] = {}, b[2] = {};
    float d[4] = {};
    halfops::ptx::mma_m16n8k16<T>(d, a, b);
    memory.floats[threadIdx.x] = d[0];
}

__device__ inline void product_after_exit(Memory memory) {
    if (threadIdx.x % 32 == 7) return;
    product<halfops::f16>(memory);
}

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
    {"copy_to_global_memory", copy_to_global_memory},
    {"copy_from_shared_memory", copy_from_shared_memory},
    {"copy_over_the_end", copy_over_the_end},
    {"copy_to_a_misaligned_place", copy_to_a_misaligned_place},
    {"copy_from_a_misaligned_place", copy_from_a_misaligned_place},
    {"copy_of_too_many_bytes", copy_of_too_many_bytes},
    {"copy_of_fewer_than_no_bytes", copy_of_fewer_than_no_bytes},
    {"copy_without_a_wait", copy_without_a_wait},
    {"copy_in_no_group", copy_in_no_group},
    {"copy_beside_the_source", copy_beside_the_source},
    {"no_barrier_after_the_copy", no_barrier_after_the_copy},
    {"wait_for_too_few_groups", wait_for_too_few_groups},
    {"no_barrier_before_the_matrices", no_barrier_before_the_matrices},
    {"source_written_before_the_wait", source_written_before_the_wait},
    {"matrix_row_misaligned", matrix_row_misaligned},
    {"matrix_row_in_global_memory", matrix_row_in_global_memory},
    {"address_that_only_some_devices_ignore", address_that_only_some_devices_ignore},
    {"divergent_matrices", divergent_matrices},
    {"product_of_f16", product<halfops::f16>},
    {"product_of_bf16", product<halfops::bf16>},
    {"product_after_exit", product_after_exit},
};

__global__ void mistake_kernel(void (*device_function)(Memory memory), Memory memory) { device_function(memory); }

}  // namespace kernels
