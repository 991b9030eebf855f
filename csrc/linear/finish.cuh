// What comes after the tiles: tiles in several pieces get their sums and their epilogue, squares become one sum.
#pragma once

#include "collective/shared.cuh"
#include "core/finite.h"
#include "linear/kernel.cuh"
#include "ptx/roles.cuh"

namespace halfops::linear {

inline constexpr int kFinishWarps = 4;
inline constexpr unsigned kFinishThreads = kFinishWarps * kWarpSize;

// A patch of a tile that is in pieces, in the workspace.
template <int kColumns>
struct PiecedPatch {
    static constexpr int kEights = kColumns / kEight, kAtOnce = kWarpSize / kEights;  // rows that a warp reads at once
    static constexpr int kRows = kPatchRows / kAtOnce;
    using Sums = float[kRows][kEight];

    const Schedule& schedule;
    const float* partials;
    int64_t tile, first;  // the first block that has a piece
    int64_t numel;        // of a tile
    int pitch, offset;    // of a tile's rows; of the patch in a tile

    __device__ __forceinline__ static int row(int r) { return lane_index() / kEights + r * kAtOnce; }
    __device__ __forceinline__ static int eight() { return lane_index() % kEights; }

    // The sums of the pieces of blocks `begin` to `end`, in this order, that is the order of K. Many loads are on their
    // way at a time, for a warp waits for nothing else.
    __device__ __forceinline__ void add(int64_t begin, int64_t end, Sums& sums) const {
        constexpr int kPieces = 8 / kRows;
#pragma unroll 1
        for (int64_t block = begin; block < end; block += kPieces) {
            Eight<float> piece[kPieces][kRows];
#pragma unroll
            for (int i = 0; i < kPieces; ++i) {
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    const int64_t of = smaller(block + i, end - 1);
                    const int slot = of == first ? schedule.slot_of(tile, first) : 0;
                    piece[i][r] = Eight<float>::load(partials + (2 * of + slot) * numel + offset + row(r) * pitch +
                                                     eight() * kEight);
                }
            }
#pragma unroll
            for (int i = 0; i < kPieces; ++i) {
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
#pragma unroll
                    for (int j = 0; j < kEight; ++j) {
                        if (block + i < end) sums[r][j] += float_of(piece[i][r].bits(j));
                    }
                }
            }
        }
    }
};

// All patches of all tiles, each by `warps_each` warps of a block, which take a part of the pieces each; those of tiles
// in one piece are done already. Pieces of a part are added in the order of K, and so are the parts.
template <int kColumns>
__global__ void __launch_bounds__(kFinishThreads, 3)
    finish_pieces_kernel(const __grid_constant__ GemmArguments arguments, const __grid_constant__ Policy policy,
                         int warps_each) {
    using Pieces = PiecedPatch<kColumns>;
    constexpr int kFloats = Patch<kColumns>::kFloats;
    ptx::wait_for_earlier_grids();
    auto& patches_of_block = shared_array<Policy, Vector16, kFinishWarps * 2 * kFloats / 4>();
    const Schedule& schedule = arguments.schedule;

    const int patches_of_warp = warp_m(policy) / kPatchRows, warps = policy.warps_m * policy.warps_n;
    const int in_block = static_cast<int>(threadIdx.x) / kWarpSize, part = in_block % warps_each;
    const int64_t index = warp_in_grid() / warps_each, tile = index / (warps * patches_of_warp);
    const int within = static_cast<int>(index - tile * warps * patches_of_warp);
    const int warp = within / patches_of_warp, i = within % patches_of_warp;
    const bool exists = tile < schedule.tiles();
    const int64_t first = exists ? schedule.first_of(tile) : 0, last = exists ? schedule.last_of(tile) : 0;
    const bool pieced = first != last;

    float* floats = reinterpret_cast<float*>(patches_of_block);
    const Patch<kColumns> patch{floats + in_block * 2 * kFloats}, second{floats + (in_block * 2 + 1) * kFloats};
    const int row = warp / policy.warps_n * warp_m(policy) + i * kPatchRows;
    const int column = warp % policy.warps_n * kColumns;
    if (pieced) {
        const int64_t count = last + 1 - first;
        const Pieces pieces{schedule, arguments.partials,     tile, first, static_cast<int64_t>(policy.m) * policy.n,
                            policy.n, row * policy.n + column};
        typename Pieces::Sums sums = {};
        pieces.add(first + count * part / warps_each, first + count * (part + 1) / warps_each, sums);
#pragma unroll
        for (int r = 0; r < Pieces::kRows; ++r) patch.write(Pieces::row(r), Pieces::eight(), sums[r]);
    }
    __syncthreads();  // the parts are there for the first of their warps
    if (!pieced || part != 0) return;
    if (warps_each > 1) {
#pragma unroll 1
        for (int r = 0; r < Pieces::kRows; ++r) {
            float sums[kEight];
            patch.read(Pieces::row(r), Pieces::eight(), sums);
#pragma unroll 1
            for (int other = 1; other < warps_each; ++other) {
                float more[kEight];
                Patch<kColumns>{patch.data + other * 2 * kFloats}.read(Pieces::row(r), Pieces::eight(), more);
#pragma unroll
                for (int j = 0; j < kEight; ++j) sums[j] += more[j];
            }
            patch.write(Pieces::row(r), Pieces::eight(), sums);
        }
        __syncwarp();  // the sums are there for every lane
    }

    const TilePlace place = schedule.place_of(static_cast<int32_t>(tile));
    const Outputs outputs = outputs_of(arguments, place, policy.m, policy.n, column);
    Patches<kColumns> patches(arguments.epilogue, lane_index(), outputs.col, patch, second);
    patches.finish(outputs.row + row, outputs.end);
    const SumSlots slots = sum_slots(schedule, tile, place, policy.warps_m, policy.warps_n, warp / policy.warps_n,
                                     warp % policy.warps_n, patches_of_warp, i);
    patches.leave_sums(slots.columns, slots.squares);
}

inline constexpr unsigned kSquaresThreads = 1024;

// One block: thread t adds the numbers t, t + 1024, ... in order, eight on their way at a time, then each warp, then
// the first one.
static __global__ void __launch_bounds__(kSquaresThreads)
    finish_squares_kernel(const double* squares, int64_t count, double* stats) {
    auto& sums = shared_array<Schedule, double, kSquaresThreads / kWarpSize>();
    ptx::wait_for_earlier_grids();
    double sum = 0.0;
    constexpr int kAtOnce = 8;
    for (int64_t i = threadIdx.x; i < count; i += kAtOnce * kSquaresThreads) {
        double loaded[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
            const int64_t at = i + j * int64_t{kSquaresThreads};
            loaded[j] = at < count ? squares[at] : 0.0;
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) sum += loaded[j];
    }
    sum = warp_sum(sum);
    if (lane_index() == 0) sums[threadIdx.x / kWarpSize] = sum;
    __syncthreads();
    if (threadIdx.x < kWarpSize) {
        sum = warp_sum(sums[threadIdx.x]);
        if (threadIdx.x == 0) {
            stats[0] = one_nan(sum);
            stats[1] = is_finite(sum) ? 0.0 : 1.0;
            stats[2] = 0.0;
        }
    }
}

}  // namespace halfops::linear
