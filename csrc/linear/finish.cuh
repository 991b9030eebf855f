// What comes after the tiles: tiles in several pieces get their sums and their epilogue, squares become one sum.
#pragma once

#include "collective/shared.cuh"
#include "core/finite.h"
#include "linear/kernel.cuh"
#include "ptx/roles.cuh"

namespace halfops::linear {

inline constexpr int kFinishWarps = 4;
inline constexpr unsigned kFinishThreads = kFinishWarps * kWarpSize;

// A patch a warp, of all tiles; those in one piece are done already. Pieces are added in the order of K.
template <int kColumns>
__global__ void __launch_bounds__(kFinishThreads, 4)
    finish_pieces_kernel(const __grid_constant__ GemmArguments arguments, const __grid_constant__ Policy policy) {
    constexpr int kFloats = Patch<kColumns>::kFloats, kEights = kColumns / kEight;
    ptx::wait_for_earlier_grids();
    auto& patches_of_block = shared_array<Policy, Vector16, kFinishWarps * 2 * kFloats / 4>();
    const Schedule& schedule = arguments.schedule;

    const int patches_of_warp = warp_m(policy) / kPatchRows, warps = policy.warps_m * policy.warps_n;
    const int64_t index = warp_in_grid(), tile = index / (warps * patches_of_warp);
    if (tile >= schedule.tiles()) return;
    const int within = static_cast<int>(index - tile * warps * patches_of_warp);
    const int warp = within / patches_of_warp, i = within % patches_of_warp;
    const int64_t first = schedule.block_of(tile * schedule.steps);
    const int64_t last = schedule.block_of(tile * schedule.steps + schedule.steps - 1);
    if (first == last) return;

    float* mine = reinterpret_cast<float*>(patches_of_block) + static_cast<int>(threadIdx.x) / kWarpSize * 2 * kFloats;
    const Patch<kColumns> patch{mine}, second{mine + kFloats};
    const int row = warp / policy.warps_n * warp_m(policy) + i * kPatchRows;
    const int column = warp % policy.warps_n * kColumns, eight = lane_index() % kEights;
#pragma unroll 1
    for (int r = lane_index() / kEights; r < kPatchRows; r += kWarpSize / kEights) {
        float sums[kEight] = {};
#pragma unroll 4
        for (int64_t block = first; block <= last; ++block) {
            // Its first piece or its second one: a share that begins before the tile has another piece first.
            const int slot = schedule.share_begin(block) >= tile * schedule.steps ? 0 : 1;
            const float* partial = arguments.partials + (2 * block + slot) * policy.m * policy.n +
                                   (row + r) * policy.n + column + eight * kEight;
            const Eight<float> piece = Eight<float>::load(partial);
#pragma unroll
            for (int j = 0; j < kEight; ++j) sums[j] += float_of(piece.bits(j));
        }
        patch.write(r, eight, sums);
    }
    __syncwarp();  // the patch is there for every lane

    const TilePlace place = schedule.place_of(tile);
    const Outputs outputs = outputs_of(arguments, place, policy.m, policy.n, column);
    Patches<kColumns> patches(arguments.epilogue, outputs.col, patch, second);
    patches.finish(outputs.row + row, outputs.end);
    const SumSlots slots = sum_slots(schedule, tile, place, policy.warps_m, policy.warps_n, warp / policy.warps_n,
                                     warp % policy.warps_n, patches_of_warp, i);
    patches.leave_sums(slots.columns, slots.squares);
}

inline constexpr unsigned kSquaresThreads = 256;

// One block: thread t adds the numbers t, t + 256, ... in order, then a tree.
static __global__ void __launch_bounds__(kSquaresThreads)
    finish_squares_kernel(const double* squares, int64_t count, double* stats) {
    auto& sums = shared_array<Schedule, double, kSquaresThreads>();
    ptx::wait_for_earlier_grids();
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < count; i += kSquaresThreads) sum += squares[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < kWarpSize) {
        double mine[kPerThread];
#pragma unroll
        for (int j = 0; j < kPerThread; ++j) mine[j] = sums[threadIdx.x * kPerThread + j];
        sum = warp_tree(mine);
        if (threadIdx.x == 0) {
            stats[0] = one_nan(sum);
            stats[1] = is_finite(sum) ? 0.0 : 1.0;
            stats[2] = 0.0;
        }
    }
}

}  // namespace halfops::linear
