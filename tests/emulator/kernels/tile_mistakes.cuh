// Mistakes with barriers, tiles, clusters and roles, one a function: `kTileMistakes` at the end is the list.
#pragma once

#include <cuda_runtime.h>

#include "collective/shared.cuh"
#include "kernels/tiles.cuh"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/roles.cuh"
#include "ptx/tma.cuh"

namespace kernels {

// Rows of 128 bytes in boxes of 1024, with the swizzle.
struct Tiles {
    halfops::ptx::TensorMap map;
    float* floats;
};

constexpr int kTileBytes = 1024;

__device__ inline float* tile(int n) { return halfops::shared_bytes_as<float>() + n * (kTileBytes / 4); }

__device__ inline uint64_t* barriers() { return halfops::shared_array<struct Barriers, uint64_t, 2>(); }

// Two barriers for one arrival each, which all threads of the cluster know of.
__device__ inline void make_barriers() {
    if (threadIdx.x == 0) {
        make_barrier(&barriers()[0], 1);
        make_barrier(&barriers()[1], 1);
    }
    halfops::ptx::cluster_arrive();
    halfops::ptx::cluster_wait();
}

__device__ inline void meet_again() {
    halfops::ptx::cluster_arrive();
    halfops::ptx::cluster_wait();
}

// Some thousand steps of other threads, whichever are preferred.
__device__ inline void take_long() {
    for (int i = 0; i < 20000; ++i) __nanosleep(100);
}

__device__ inline void load(const Tiles& tiles, int n, uint64_t* barrier) {
    halfops::ptx::mbarrier_arrive_expect_bytes(barrier, kTileBytes);
    halfops::ptx::tma_load(tile(n), tiles.map, 0, 0, n, barrier);
}

// --- barriers -------------------------------------------------------------------------------------------------------

__device__ inline void misaligned_barrier(const Tiles&) {
    halfops::ptx::mbarrier_init(reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(barriers()) + 4), 1);
}

__device__ inline void barrier_in_global_memory(const Tiles& tiles) {
    halfops::ptx::mbarrier_init(reinterpret_cast<uint64_t*>(tiles.floats), 1);
}

__device__ inline void barrier_for_nobody(const Tiles&) { halfops::ptx::mbarrier_init(barriers(), 0); }

__device__ inline void barrier_twice(const Tiles&) {
    if (threadIdx.x != 0) return;
    halfops::ptx::mbarrier_init(barriers(), 1);
    halfops::ptx::mbarrier_init(barriers(), 2);
}

__device__ inline void barrier_never_made(const Tiles&) { halfops::ptx::mbarrier_arrive(barriers()); }

__device__ inline void barrier_overwritten(const Tiles&) {
    make_barriers();
    if (threadIdx.x == 0) reinterpret_cast<float*>(barriers())[1] = 1.0f;
    __syncthreads();
    if (threadIdx.x == 0) halfops::ptx::mbarrier_arrive(barriers());
}

__device__ inline void too_many_arrivals(const Tiles&) {
    make_barriers();
    if (threadIdx.x == 0) halfops::ptx::mbarrier_arrive_expect_bytes(barriers(), 16);
    __syncthreads();
    if (threadIdx.x == 7) halfops::ptx::mbarrier_arrive(barriers());
}

__device__ inline void too_many_bytes(const Tiles&) {
    make_barriers();
    if (threadIdx.x == 0) halfops::ptx::mbarrier_arrive_expect_bytes(barriers(), 1 << 20);
}

__device__ inline void no_such_parity(const Tiles&) {
    make_barriers();
    halfops::ptx::mbarrier_wait(barriers(), 2);
}

__device__ inline void waits_for_the_next_phase(const Tiles&) {
    make_barriers();
    if (threadIdx.x == 0) halfops::ptx::mbarrier_arrive(barriers());
    __syncthreads();
    if (threadIdx.x >= 32) halfops::ptx::mbarrier_wait(barriers(), 1);
}

// --- clusters -------------------------------------------------------------------------------------------------------

__device__ inline void arrival_beyond_the_cluster(const Tiles&) {
    make_barriers();
    halfops::ptx::mbarrier_arrive_at(barriers(), 2);
}

__device__ inline void arrival_before_the_cluster_has_met(const Tiles&) {
    halfops::ptx::mbarrier_arrive_at(barriers(), halfops::ptx::cluster_rank() ^ 1);
}

// Block 0 waits in two phases for both blocks.
__device__ inline void no_arrival_from_the_other_block(const Tiles&) {
    if (threadIdx.x == 0) make_barrier(barriers(), 2);
    meet_again();
    for (unsigned phase = 0; phase < 2; ++phase) {
        const bool arrives = halfops::ptx::cluster_rank() == 0 || phase == 0;
        if (threadIdx.x == 0 && arrives) halfops::ptx::mbarrier_arrive_at(barriers(), 0);
        if (halfops::ptx::cluster_rank() == 0) halfops::ptx::mbarrier_wait(barriers(), phase);
    }
    meet_again();
}

__device__ inline void exit_before_an_arrival(const Tiles&) {
    make_barriers();
    if (halfops::ptx::cluster_rank() == 1 || threadIdx.x != 0) return;
    take_long();
    halfops::ptx::mbarrier_arrive_at(barriers(), 1);
}

__device__ inline void exit_before_a_read(const Tiles& tiles) {
    tile(0)[threadIdx.x] = 1.0f;
    meet_again();
    if (halfops::ptx::cluster_rank() == 1 || threadIdx.x != 0) return;
    take_long();
    tiles.floats[threadIdx.x] = halfops::ptx::load_from_block(tile(0), 1);
}

__device__ inline void exit_before_a_tile(const Tiles& tiles) {
    make_barriers();
    if (halfops::ptx::cluster_rank() == 1 || threadIdx.x != 0) return;
    take_long();
    halfops::ptx::mbarrier_arrive_expect_bytes(barriers(), kTileBytes);
    halfops::ptx::tma_load_multicast(tile(0), tiles.map, 0, 0, 0, barriers(), 3);
}

__device__ inline void read_of_global_memory(const Tiles& tiles) {
    meet_again();
    halfops::ptx::load_from_block(tiles.floats, 1);
}

__device__ inline void misaligned_read(const Tiles&) {
    meet_again();
    halfops::ptx::load_from_block(reinterpret_cast<float*>(reinterpret_cast<char*>(tile(0)) + 2), 1);
}

__device__ inline void cluster_arrival_twice(const Tiles&) {
    halfops::ptx::cluster_arrive();
    halfops::ptx::cluster_arrive();
}

__device__ inline void cluster_wait_alone(const Tiles&) { halfops::ptx::cluster_wait(); }

__device__ inline void divergent_cluster_arrival(const Tiles&) {
    if (threadIdx.x % 2 == 0) {
        halfops::ptx::cluster_arrive();
    } else {
        halfops::ptx::cluster_arrive();
    }
    halfops::ptx::cluster_wait();
}

__device__ inline void cluster_waits_for_a_warp(const Tiles&) {
    if (threadIdx.x < 32) {
        meet_again();
    } else {
        __syncthreads();
    }
}

// --- tiles ----------------------------------------------------------------------------------------------------------

__device__ inline void map_never_made(const Tiles&) {
    make_barriers();
    halfops::ptx::TensorMap map{};
    halfops::ptx::tma_load(tile(0), map, 0, 0, 0, barriers());
}

__device__ inline void misaligned_map(const Tiles& tiles) {
    make_barriers();
    const char* begin = reinterpret_cast<const char*>(&tiles.map);
    halfops::ptx::tma_load(tile(0), *reinterpret_cast<const halfops::ptx::TensorMap*>(begin + 16), 0, 0, 0, barriers());
}

__device__ inline void misaligned_tile(const Tiles& tiles) {
    make_barriers();
    halfops::ptx::tma_load(tile(0) + 32, tiles.map, 0, 0, 0, barriers());
}

__device__ inline void tile_over_the_end(const Tiles& tiles) {
    make_barriers();
    halfops::ptx::tma_load(tile(2), tiles.map, 0, 0, 0, barriers());
}

__device__ inline void tile_to_global_memory(const Tiles& tiles) {
    make_barriers();
    const auto place = reinterpret_cast<uintptr_t>(tiles.floats) / kTileBytes * kTileBytes;
    halfops::ptx::tma_load(reinterpret_cast<float*>(place), tiles.map, 0, 0, 0, barriers());
}

__device__ inline void tile_without_a_barrier(const Tiles& tiles) {
    if (threadIdx.x == 0) halfops::ptx::tma_load(tile(0), tiles.map, 0, 0, 0, barriers());
}

__device__ inline void tile_beyond_the_cluster(const Tiles& tiles) {
    make_barriers();
    halfops::ptx::tma_load_multicast(tile(0), tiles.map, 0, 0, 0, barriers(), 4);
}

__device__ inline void tile_to_nobody(const Tiles& tiles) {
    make_barriers();
    halfops::ptx::tma_load_multicast(tile(0), tiles.map, 0, 0, 0, barriers(), 0);
}

__device__ inline void two_tiles_to_one_place(const Tiles& tiles) {
    make_barriers();
    if (threadIdx.x != 0) return;
    halfops::ptx::mbarrier_arrive_expect_bytes(barriers(), 2 * kTileBytes);
    for (int n = 0; n < 2; ++n) halfops::ptx::tma_load(tile(0), tiles.map, 0, 0, n, barriers());
    halfops::ptx::mbarrier_wait(barriers(), 0);
}

__device__ inline void exit_before_the_tile(const Tiles& tiles) {
    make_barriers();
    if (threadIdx.x == 0) load(tiles, 0, barriers());
}

template <int kExpected>
__device__ inline void tile_of_other_bytes_than_expected(const Tiles& tiles) {
    make_barriers();
    if (threadIdx.x == 0) {
        halfops::ptx::mbarrier_arrive_expect_bytes(barriers(), kExpected);
        halfops::ptx::tma_load(tile(0), tiles.map, 0, 0, 0, barriers());
    }
    halfops::ptx::mbarrier_wait(barriers(), 0);
}

// Each block brings a half to both, and expects only its own.
__device__ inline void multicast_of_more_than_was_expected(const Tiles& tiles) {
    make_barriers();
    const int rank = static_cast<int>(halfops::ptx::cluster_rank());
    if (threadIdx.x == 0) {
        halfops::ptx::mbarrier_arrive_expect_bytes(barriers(), rank == 0 ? 2 * kTileBytes : kTileBytes);
        halfops::ptx::tma_load_multicast(tile(rank), tiles.map, 0, 0, rank, barriers(), 3);
    }
    halfops::ptx::mbarrier_wait(barriers(), 0);
    meet_again();
    if (threadIdx.x == 0) halfops::ptx::mbarrier_arrive(barriers());
    halfops::ptx::mbarrier_wait(barriers(), 1);
    meet_again();
}

// --- stores ---------------------------------------------------------------------------------------------------------

// Everything but what comes after the store.
__device__ inline void start_store(const Tiles& tiles) {
    for (int i = 0; i < 4; ++i) tile(0)[threadIdx.x + 64 * i] = 1.0f;
    halfops::ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) halfops::ptx::tma_store(tiles.map, 0, 0, 0, tile(0));
}

__device__ inline void exit_before_the_store_has_read(const Tiles& tiles) {
    start_store(tiles);
    halfops::ptx::tma_commit();
    halfops::ptx::tma_wait_read<1>();
}

__device__ inline void store_in_no_group(const Tiles& tiles) {
    start_store(tiles);
    halfops::ptx::tma_wait_read<0>();
}

__device__ inline void misaligned_store(const Tiles& tiles) {
    halfops::ptx::tma_store(tiles.map, 0, 0, 0, tile(0) + 32);
}

__device__ inline void addition_from_global_memory(const Tiles& tiles) {
    const auto place = reinterpret_cast<uintptr_t>(tiles.floats) / kTileBytes * kTileBytes;
    halfops::ptx::tma_add(tiles.map, 0, 0, 0, reinterpret_cast<const float*>(place));
}

// --- roles ----------------------------------------------------------------------------------------------------------

__device__ inline void registers_of_half_a_warpgroup(const Tiles&) { halfops::ptx::give_registers<40>(); }

__device__ inline void registers_of_three_warps(const Tiles&) {
    if (threadIdx.x < 96) halfops::ptx::give_registers<40>();
}

__device__ inline void registers_of_two_kinds(const Tiles&) {
    if (threadIdx.x < 64) {
        halfops::ptx::give_registers<40>();
    } else {
        halfops::ptx::give_registers<48>();
    }
}

__device__ inline void registers_in_divergent_code(const Tiles&) {
    if (threadIdx.x % 32 < 16) halfops::ptx::give_registers<40>();
}

__device__ inline void more_registers_than_there_are(const Tiles&) { halfops::ptx::take_registers<232>(); }

// --- races ----------------------------------------------------------------------------------------------------------

__device__ inline void no_fence_after_the_init(const Tiles& tiles) {
    if (threadIdx.x == 0) halfops::ptx::mbarrier_init(barriers(), 1);
    __syncthreads();
    if (threadIdx.x == 0) load(tiles, 0, barriers());
    halfops::ptx::mbarrier_wait(barriers(), 0);
}

__device__ inline void no_barrier_after_the_init(const Tiles&) {
    if (threadIdx.x == 0) make_barrier(barriers(), 1);
    if (threadIdx.x == 63) {
        take_long();
        halfops::ptx::mbarrier_arrive(barriers());
    }
}

__device__ inline void no_fence_before_the_store(const Tiles& tiles) {
    for (int i = 0; i < 4; ++i) tile(0)[threadIdx.x + 64 * i] = 1.0f;
    __syncthreads();
    if (threadIdx.x == 0) {
        halfops::ptx::tma_store(tiles.map, 0, 0, 0, tile(0));
        halfops::ptx::tma_commit();
        halfops::ptx::tma_wait<0>();
    }
}

__device__ inline void no_wait_before_the_next_tile(const Tiles& tiles) {
    start_store(tiles);
    halfops::ptx::tma_commit();
    __syncthreads();
    tile(0)[threadIdx.x] = 2.0f;
    halfops::ptx::tma_wait_read<0>();
}

// Only that it has been read, not that it has been written.
__device__ inline void result_read_too_early(const Tiles& tiles) {
    start_store(tiles);
    halfops::ptx::tma_commit();
    halfops::ptx::tma_wait_read<0>();
    __syncthreads();
    tile(1)[threadIdx.x] = tiles.floats[threadIdx.x];
}

__device__ inline void no_wait_for_the_tile(const Tiles& tiles) {
    make_barriers();
    if (threadIdx.x == 0) {
        load(tiles, 0, barriers());
        halfops::ptx::mbarrier_wait(barriers(), 0);
    }
    if (threadIdx.x >= 32) tile(1)[threadIdx.x] = tile(0)[threadIdx.x];
}

// Warp 1 says that it has read the tile, and reads it.
__device__ inline void released_before_it_was_read(const Tiles& tiles) {
    make_barriers();
    if (threadIdx.x == 0) {
        load(tiles, 0, &barriers()[0]);
        halfops::ptx::mbarrier_wait(&barriers()[1], 0);
        load(tiles, 0, &barriers()[0]);
        halfops::ptx::mbarrier_wait(&barriers()[0], 1);
    }
    if (threadIdx.x >= 32) {
        halfops::ptx::mbarrier_wait(&barriers()[0], 0);
        if (threadIdx.x == 32) halfops::ptx::mbarrier_arrive(&barriers()[1]);
        tile(1)[threadIdx.x] = tile(0)[threadIdx.x];
    }
}

__device__ inline void no_barrier_before_a_read(const Tiles& tiles) {
    meet_again();
    tile(0)[threadIdx.x] = 1.0f;
    tile(1)[threadIdx.x] = halfops::ptx::load_from_block(tile(0) + threadIdx.x, halfops::ptx::cluster_rank() ^ 1);
    meet_again();
}

struct TileMistake {
    const char* name;
    void (*device_function)(const Tiles& tiles);
};

inline constexpr TileMistake kTileMistakes[] = {
    {"misaligned_barrier", misaligned_barrier},
    {"barrier_in_global_memory", barrier_in_global_memory},
    {"barrier_for_nobody", barrier_for_nobody},
    {"barrier_twice", barrier_twice},
    {"barrier_never_made", barrier_never_made},
    {"barrier_overwritten", barrier_overwritten},
    {"too_many_arrivals", too_many_arrivals},
    {"too_many_bytes", too_many_bytes},
    {"no_such_parity", no_such_parity},
    {"waits_for_the_next_phase", waits_for_the_next_phase},
    {"arrival_beyond_the_cluster", arrival_beyond_the_cluster},
    {"arrival_before_the_cluster_has_met", arrival_before_the_cluster_has_met},
    {"no_arrival_from_the_other_block", no_arrival_from_the_other_block},
    {"exit_before_an_arrival", exit_before_an_arrival},
    {"exit_before_a_read", exit_before_a_read},
    {"exit_before_a_tile", exit_before_a_tile},
    {"read_of_global_memory", read_of_global_memory},
    {"misaligned_read", misaligned_read},
    {"cluster_arrival_twice", cluster_arrival_twice},
    {"cluster_wait_alone", cluster_wait_alone},
    {"divergent_cluster_arrival", divergent_cluster_arrival},
    {"cluster_waits_for_a_warp", cluster_waits_for_a_warp},
    {"map_never_made", map_never_made},
    {"misaligned_map", misaligned_map},
    {"misaligned_tile", misaligned_tile},
    {"tile_over_the_end", tile_over_the_end},
    {"tile_to_global_memory", tile_to_global_memory},
    {"tile_without_a_barrier", tile_without_a_barrier},
    {"tile_beyond_the_cluster", tile_beyond_the_cluster},
    {"tile_to_nobody", tile_to_nobody},
    {"two_tiles_to_one_place", two_tiles_to_one_place},
    {"exit_before_the_tile", exit_before_the_tile},
    {"tile_of_more_than_was_expected", tile_of_other_bytes_than_expected<kTileBytes - 512>},
    {"tile_of_less_than_was_expected", tile_of_other_bytes_than_expected<kTileBytes + 512>},
    {"multicast_of_more_than_was_expected", multicast_of_more_than_was_expected},
    {"exit_before_the_store_has_read", exit_before_the_store_has_read},
    {"store_in_no_group", store_in_no_group},
    {"misaligned_store", misaligned_store},
    {"addition_from_global_memory", addition_from_global_memory},
    {"registers_of_half_a_warpgroup", registers_of_half_a_warpgroup},
    {"registers_of_three_warps", registers_of_three_warps},
    {"registers_of_two_kinds", registers_of_two_kinds},
    {"registers_in_divergent_code", registers_in_divergent_code},
    {"more_registers_than_there_are", more_registers_than_there_are},
    {"no_fence_after_the_init", no_fence_after_the_init},
    {"no_barrier_after_the_init", no_barrier_after_the_init},
    {"no_fence_before_the_store", no_fence_before_the_store},
    {"no_wait_before_the_next_tile", no_wait_before_the_next_tile},
    {"result_read_too_early", result_read_too_early},
    {"no_wait_for_the_tile", no_wait_for_the_tile},
    {"released_before_it_was_read", released_before_it_was_read},
    {"no_barrier_before_a_read", no_barrier_before_a_read},
};

__global__ void tile_mistake_kernel(void (*device_function)(const Tiles& tiles), const Tiles tiles) {
    device_function(tiles);
}

}  // namespace kernels
