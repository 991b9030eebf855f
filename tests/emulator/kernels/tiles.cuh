// Tiles that the copy engine moves, barriers that count them, and blocks that share them.
#pragma once

#include <cuda_runtime.h>

#include "collective/shared.cuh"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/roles.cuh"
#include "ptx/tma.cuh"

namespace kernels {

// By one thread of the block, which all other threads have to wait for.
__device__ inline void make_barrier(uint64_t* barrier, int count) {
    halfops::ptx::mbarrier_init(barrier, count);
    halfops::ptx::fence_mbarrier_init();
}

// A tile of `words` 32-bit words as it lies in shared memory. `late`: the bytes are expected when the load has begun.
__global__ void load_tile_kernel(const halfops::ptx::TensorMap map, const int* at, int words, bool late,
                                 uint32_t* out) {
    auto& barrier = halfops::shared_array<struct Loaded, uint64_t, 1>();
    uint32_t* tile = halfops::shared_bytes_as<uint32_t>();
    if (threadIdx.x == 0) make_barrier(barrier, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        if (!late) halfops::ptx::mbarrier_arrive_expect_bytes(barrier, words * 4);
        halfops::ptx::tma_load(tile, map, at[0], at[1], at[2], barrier);
        if (late) halfops::ptx::mbarrier_arrive_expect_bytes(barrier, words * 4);
    }
    halfops::ptx::mbarrier_wait(barrier, 0);
    for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) out[i] = tile[i];
}

// Words from one tile to the next: 1024 bytes or a multiple.
__host__ __device__ inline int place_of_tile(int words) { return (words + 255) / 256 * 256; }

// `times` stores of a tile, each in a group of its own, from two places in turn; or additions.
__global__ void store_tile_kernel(const halfops::ptx::TensorMap map, const int* at, int words, int times, bool adds,
                                  const uint32_t* in) {
    uint32_t* tiles = halfops::shared_bytes_as<uint32_t>();
    for (int n = 0; n < times; ++n) {
        uint32_t* tile = tiles + n % 2 * place_of_tile(words);
        if (threadIdx.x == 0) halfops::ptx::tma_wait_read<1>();
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) {
            tile[i] = in[n * words + i];
        }
        halfops::ptx::fence_proxy_async();
        __syncthreads();
        if (threadIdx.x == 0) {
            if (adds) {
                halfops::ptx::tma_add(map, at[0], at[1], at[2], tile);
            } else {
                halfops::ptx::tma_wait<0>();  // or the one before might be written later
                halfops::ptx::tma_store(map, at[0], at[1], at[2], tile);
            }
            halfops::ptx::tma_commit();
        }
    }
    if (threadIdx.x == 0) halfops::ptx::tma_wait_read<0>();
}

// Warp 0 is told by the others, in phase after phase, and tells them: `out` counts what each thread has seen of the
// others. 96 threads.
__global__ void phases_kernel(int phases, int* out) {
    auto& barriers = halfops::shared_array<struct Phases, uint64_t, 2>();
    auto& values = halfops::shared_array<struct Values, int, 96>();
    uint64_t *asked = &barriers[0], *answered = &barriers[1];
    const unsigned thread = threadIdx.x;
    if (thread == 0) {
        make_barrier(asked, 64);
        make_barrier(answered, 1);
    }
    __syncthreads();
    int seen = 0;
    for (int phase = 0; phase < phases; ++phase) {
        const unsigned parity = phase % 2;
        if (thread >= 32) {
            values[thread] = phase + 1;
            halfops::ptx::mbarrier_arrive(asked);
            halfops::ptx::mbarrier_wait(answered, parity);
            seen += values[thread % 32];
        } else {
            halfops::ptx::mbarrier_wait(asked, parity);
            values[thread] = values[thread + 32] + values[thread + 64];
            __syncwarp();
            if (thread == 0) halfops::ptx::mbarrier_arrive(answered);
            seen += values[thread];
        }
    }
    out[thread] = seen;
}

// Every block reads what all blocks of its cluster have.
__global__ void everywhere_kernel(unsigned blocks, const float* in, float* out) {
    auto& value = halfops::shared_array<struct Everywhere, float, 64>();
    const unsigned index = blockIdx.x * blockDim.x + threadIdx.x;
    value[threadIdx.x] = in[index];
    halfops::ptx::cluster_arrive();
    halfops::ptx::cluster_wait();
    float sum = 0.0f;
    for (unsigned rank = 0; rank < blocks; ++rank) sum += halfops::ptx::load_from_block(&value[threadIdx.x], rank);
    out[index] = sum * static_cast<float>(halfops::ptx::cluster_rank() + 1);
    halfops::ptx::cluster_arrive();
    halfops::ptx::cluster_wait();
}

// A ring of tiles that the blocks of a cluster load together: each one brings its slice to all of them. Warp 0 loads,
// two warps add up columns of 32 floats, one of them the even rows and the other one the odd ones.
struct Ring {
    static constexpr int kStages = 2;
    static constexpr int kRows = 8;
    static constexpr int kColumns = 32;
    static constexpr int kSlice = kRows * kColumns;
    static constexpr int kSliceBytes = kSlice * 4;
    static constexpr unsigned kThreads = 96;

    float* stages;
    uint64_t* full;
    uint64_t* empty;
    int blocks;

    __device__ float* tile(int n) const { return stages + n % kStages * blocks * kSlice; }
    __device__ static unsigned parity(int n) { return static_cast<unsigned>(n / kStages % 2); }

    __device__ void load(const halfops::ptx::TensorMap& map, int tiles) const {
        const int rank = static_cast<int>(halfops::ptx::cluster_rank());
        const auto everywhere = static_cast<uint16_t>((1 << blocks) - 1);
        for (int n = 0; n < tiles; ++n) {
            uint64_t* barrier = &full[n % kStages];
            halfops::ptx::mbarrier_wait(&empty[n % kStages], parity(n) ^ 1);
            halfops::ptx::mbarrier_arrive_expect_bytes(barrier, blocks * kSliceBytes);
            float* slice = tile(n) + rank * kSlice;
            if (blocks == 1) {
                halfops::ptx::tma_load(slice, map, 0, 0, n, barrier);
            } else {
                halfops::ptx::tma_load_multicast(slice, map, 0, rank * kRows, n, barrier, everywhere);
            }
        }
    }

    __device__ float add_up(int tiles) const {
        const int column = static_cast<int>(threadIdx.x % 32), first = static_cast<int>(threadIdx.x / 32) - 1;
        float sum = 0.0f;
        for (int n = 0; n < tiles; ++n) {
            halfops::ptx::mbarrier_wait(&full[n % kStages], parity(n));
            for (int row = first; row < blocks * kRows; row += 2) {
                sum += tile(n)[row * kColumns + (column / 4 ^ row % 8) * 4 + column % 4];
            }
            __syncwarp();
            if (column == 0) release(n);
        }
        return sum;
    }

    __device__ void release(int n) const {
        for (int rank = 0; rank < blocks; ++rank) halfops::ptx::mbarrier_arrive_at(&empty[n % kStages], rank);
    }
};

__global__ void ring_kernel(const halfops::ptx::TensorMap map, int blocks, int tiles, float* out) {
    auto& full = halfops::shared_array<struct Full, uint64_t, Ring::kStages>();
    auto& empty = halfops::shared_array<struct Empty, uint64_t, Ring::kStages>();
    const Ring ring{halfops::shared_bytes_as<float>(), full, empty, blocks};
    if (threadIdx.x == 0) {
        halfops::ptx::prefetch_tensor_map(map);
        for (int i = 0; i < Ring::kStages; ++i) {
            make_barrier(&full[i], 1);
            make_barrier(&empty[i], 2 * blocks);
        }
    }
    halfops::ptx::cluster_arrive();
    halfops::ptx::cluster_wait();
    if (threadIdx.x == 0) ring.load(map, tiles);
    if (threadIdx.x >= 32) out[blockIdx.x * 64 + threadIdx.x - 32] = ring.add_up(tiles);
    halfops::ptx::cluster_arrive();
    halfops::ptx::cluster_wait();
}

// Three warpgroups, of which the first one gives registers to the others; barriers among two of them.
__global__ void roles_kernel(int* out) {
    auto& values = halfops::shared_array<struct Roles, int, 256>();
    if (threadIdx.x < 128) {
        halfops::ptx::give_registers<40>();
        return;
    }
    halfops::ptx::take_registers<232>();
    const unsigned thread = threadIdx.x - 128;
    values[thread] = static_cast<int>(thread);
    halfops::ptx::named_barrier_sync<256>(1);
    out[thread] = values[255 - thread];
}

}  // namespace kernels
