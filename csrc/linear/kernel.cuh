// The GEMM kernel: a block walks through the pieces of its share, and finishes the tiles that it has whole.
#pragma once

#include "collective/shared.cuh"
#include "linear/epilogue.cuh"
#include "linear/mainloop.cuh"
#include "ptx/prefetch.cuh"

namespace halfops::linear {

struct GemmArguments {
    Operands operands;
    Schedule schedule;
    EpilogueArguments epilogue;
    float* partials;  // of each block two tiles, row by row, for pieces of tiles that have others
};

// One of a warp's rows of fragments into its patch, by every lane of it.
template <class Config>
__device__ __forceinline__ void write_patch(const Patch<warp_n(Config::kPolicy)>& patch, int lane,
                                            const float (&sums)[2 * Config::kColumns][4]) {
    struct alignas(8) Two {
        float x, y;
    };
    const int row = lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < 2 * Config::kColumns; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            *reinterpret_cast<Two*>(&patch.at(row + 8 * half, 8 * j + column)) =
                Two{sums[j][2 * half], sums[j][2 * half + 1]};
        }
    }
}

// A patch to a tile of partial sums, `pitch` floats a row.
template <int kColumns>
__device__ __forceinline__ void store_partial(const Patch<kColumns>& patch, int lane, float* tile, int pitch) {
    constexpr int kEights = kColumns / kEight;
    const int eight = lane % kEights;
#pragma unroll 1
    for (int i = lane / kEights; i < kPatchRows; i += kWarpSize / kEights) {
        float v[kEight];
        patch.read(i, eight, v);
        Eight<float> stored;
#pragma unroll
        for (int j = 0; j < kEight; ++j) stored.set_bits(j, bits_of(v[j]));
        stored.store(tile + static_cast<int64_t>(i) * pitch + eight * kEight);
    }
}

// Where the sums of a patch, or of all of a warp's patches, go: rows of tiles from above, and warps of tiles.
struct SumSlots {
    int64_t columns, squares;
};

__device__ __forceinline__ SumSlots sum_slots(const Schedule& schedule, int64_t tile, const TilePlace& place,
                                              int warps_m, int warps_n, int warp_row, int warp_column, int patches,
                                              int patch) {
    const int64_t row = (place.batch * schedule.tiles_m + place.m) * warps_m + warp_row;
    const int64_t warp = tile * warps_m * warps_n + warp_row * warps_n + warp_column;
    return {row * patches + patch, warp * patches + patch};
}

// Where a part of a tile stands in the output, all batches' rows one below the other: its tile's rows, and the column
// that its accumulators from `column` on become.
struct Outputs {
    int64_t row, end, col;
};

__device__ __forceinline__ Outputs outputs_of(const GemmArguments& arguments, const TilePlace& place, int m, int n,
                                              int column) {
    const bool gated = arguments.epilogue.gated;
    const int64_t rows = arguments.operands.m, above = place.batch * rows;
    return {above + place.m * m, above + smaller(rows, (place.m + 1) * m),
            place.n * (gated ? n / 2 : n) + (gated ? column / 2 : column)};
}

// A tile's part of a matrix that the epilogue reads, m rows and n columns at most, on its way to L2 while the products
// are summed: there a load takes a third of what it takes from memory, and an epilogue waits for one a row.
__device__ __forceinline__ void prefetch(const Sheet& sheet, const Outputs& o, int m, int n, int64_t cols, int thread,
                                         int threads) {
    if (sheet.data == nullptr || sheet.col_stride != 1) return;
    constexpr int kLine = 128;
    const int64_t bytes = bytes_of(sheet.dtype), width = smaller(n, cols - o.col) * bytes;
    const int lines = static_cast<int>(ceil_div(width, kLine));
    for (int i = thread; i < m * lines; i += threads) {
        const int64_t at = o.row + i / lines;
        if (at >= o.end) return;
        const char* begin = static_cast<const char*>(sheet.data) + (at * sheet.row_stride + o.col) * bytes;
        ptx::prefetch_l2(begin + i % lines * kLine);
    }
}

__device__ __forceinline__ void prefetch(const EpilogueArguments& e, const Outputs& o, int m, int n, int thread,
                                         int threads) {
    prefetch(e.grad_preact, o, m, n, e.cols, thread, threads);
    prefetch(e.grad_up, o, m, n, e.cols, thread, threads);
    prefetch(e.c, o, m, n, e.cols, thread, threads);
}

template <class Config>
__device__ __forceinline__ void finish_piece(const GemmArguments& arguments, const Work& work, char* shared,
                                             const Accumulators<Config>& sums) {
    constexpr Policy p = Config::kPolicy;
    constexpr int kColumns = warp_n(p);
    const EpilogueArguments& e = arguments.epilogue;
    const Piece piece = work.piece;
    const TilePlace place = work.place;
    const int thread = ptx::thread_index_anew(), warp = thread / kWarpSize, lane = thread % kWarpSize;
    const int warp_row = Warp<Config>::warp_row(warp), warp_column = Warp<Config>::warp_column(warp);
    float* floats = reinterpret_cast<float*>(shared) + warp * 2 * Patch<kColumns>::kFloats;
    const Patch<kColumns> patch{floats}, second{floats + Patch<kColumns>::kFloats};
    const bool whole = arguments.schedule.is_whole(piece);
    float* partial = arguments.partials + (2 * static_cast<int64_t>(blockIdx.x) + piece.slot) * p.m * p.n;

    const Outputs outputs = outputs_of(arguments, place, p.m, p.n, warp_column);
    Patches<kColumns> patches(e, lane, outputs.col, patch, second);
#pragma unroll 1
    for (int i = 0; i < Config::kRows; ++i) {
#pragma unroll
        for (int r = 0; r < Config::kRows; ++r) {
            if (r == i) write_patch<Config>(patch, lane, sums.of[r]);
        }
        __syncwarp();
        const int row = warp_row + i * kPatchRows;
        if (whole) {
            patches.finish(outputs.row + row, outputs.end);
            if (e.fine || i == Config::kRows - 1) {
                const int count = e.fine ? Config::kRows : 1;
                const SumSlots slots = sum_slots(arguments.schedule, piece.tile, place, p.warps_m, p.warps_n,
                                                 warp / p.warps_n, warp % p.warps_n, count, e.fine ? i : 0);
                patches.leave_sums(slots.columns, slots.squares);
            }
        } else {
            store_partial(patch, lane, partial + static_cast<int64_t>(row) * p.n + warp_column, p.n);
        }
        __syncwarp();  // the patch has been read before the next one is written
    }
}

// The piece at a step of this block's share.
__device__ __forceinline__ void take_work(const Schedule& schedule, int64_t step, Work& work) {
    work.piece = schedule.piece_at(blockIdx.x, step);
    work.place = schedule.place_of(work.piece.tile);
    work.next = step + (work.piece.last - work.piece.first);
}

// Which kernels a device can have: below sm_80 those that copy through registers, and fp16 alone.
template <class Config>
__device__ constexpr bool is_possible() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    return Config::kPolicy.copy == Copy::staged && DTypeOf<typename Config::T>::value == DType::f16;
#else
    return true;
#endif
}

template <class T, int kRow, Major kMajorA, Major kMajorB>
__global__ void __launch_bounds__(threads_of(kPolicies[kRow]), kPolicies[kRow].blocks_per_multiprocessor)
    gemm_kernel(const __grid_constant__ GemmArguments arguments) {
    using C = Config<T, kRow, kMajorA, kMajorB>;
    if constexpr (is_possible<C>()) {
        char* shared = shared_bytes_as<char>();
        Work& work = shared_array<struct OfBlock, Work, 1>()[0];
        if (threadIdx.x == 0) take_work(arguments.schedule, arguments.schedule.share_begin(blockIdx.x), work);
        __syncthreads();
        if (work.piece.first == work.piece.last) return;  // an empty share
        for (;;) {
            Accumulators<C> sums;
#pragma unroll
            for (int i = 0; i < C::kRows; ++i) {
#pragma unroll
                for (int j = 0; j < 2 * C::kColumns; ++j) {
#pragma unroll
                    for (int r = 0; r < 4; ++r) sums.of[i][j][r] = 0.0f;
                }
            }
            if (arguments.schedule.is_whole(work.piece)) {
                constexpr Policy p = C::kPolicy;
                prefetch(arguments.epilogue, outputs_of(arguments, work.place, p.m, p.n, 0), p.m, p.n,
                         static_cast<int>(threadIdx.x), C::kThreads);
            }
            if constexpr (C::kPolicy.copy == Copy::async) {
                run_async<C>(arguments.operands, work, shared, sums);
            } else {
                run_staged<C>(arguments.operands, work, shared, sums);
            }
            finish_piece<C>(arguments, work, shared, sums);
            if (work.next == arguments.schedule.share_begin(static_cast<int64_t>(blockIdx.x) + 1)) break;
            __syncthreads();  // the patches have been read, and this piece of work
            if (threadIdx.x == 0) take_work(arguments.schedule, work.next, work);
            __syncthreads();
        }
    }
}

}  // namespace halfops::linear
