// Where accumulators of a bulk kernel go: a unit of them, sixteen rows and columns of a warp, or a pair side by side.
#pragma once

#include "collective/shared.cuh"
#include "linear/bulk_config.cuh"
#include "linear/kernel.cuh"
#include "ptx/roles.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

namespace halfops::linear {

// What a lane has of a warp's sixteen rows and two eights: [eight][lane / 4 or 8 rows further down][column]. Two units
// side by side are a box for the copy engine.
inline constexpr int kUnit = 8, kUnitColumns = 16;

// A unit's sums over its sixteen rows: each lane has that of one of its quad's four columns, number lane / 8 of them.
__device__ __forceinline__ float sum_over_rows(const float (&v)[kUnit], int lane) {
    float four[4], two[2];
#pragma unroll
    for (int j = 0; j < 4; ++j) four[j] = v[j / 2 * 4 + j % 2] + v[j / 2 * 4 + 2 + j % 2];
    const bool upper = (lane & 16) != 0, odd = (lane & 8) != 0;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        two[j] = (upper ? four[2 + j] : four[j]) + __shfl_xor_sync(kFullWarp, upper ? four[j] : four[2 + j], 16);
    }
    const float one = (odd ? two[1] : two[0]) + __shfl_xor_sync(kFullWarp, odd ? two[0] : two[1], 8);
    return one + __shfl_xor_sync(kFullWarp, one, 4);
}

// A unit's four 8x8 matrices for stmatrix, from element `first` on: of each eight the upper and the lower eight rows.
// What was stored is left in v.
template <class S, int kCount>
__device__ __forceinline__ void pack(float (&v)[kCount], int first, uint32_t (&pairs)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = Two<S>::rounded(v[first + 2 * i], v[first + 2 * i + 1]).word[0];
}

// A unit into half of a box: sixteen rows of 64 bytes with the 64-byte swizzle, chunk c of row r at chunk
// c ^ (r / 2 % 4).
inline constexpr int kBoxRowBytes = 4 * kUnitColumns;

__device__ __forceinline__ void put_in_box(const uint32_t (&pairs)[4], char* box, int half, int lane) {
    const int line = lane % kPatchRows, chunk = 2 * half + lane / kPatchRows;
    ptx::stmatrix_x4(box + line * kBoxRowBytes + (chunk ^ line / 2 % 4) * 16, pairs);
}
template <class S, int kCount>
__device__ __forceinline__ void put_in_box(float (&v)[kCount], int first, char* box, int half, int lane) {
    uint32_t pairs[4];
    pack<S>(v, first, pairs);
    put_in_box(pairs, box, half, lane);
}

// Item `at` of those from kFirst on, each kEach registers of a table, to elements `to` and behind it. A loop that is
// not unrolled finds registers by branches.
template <int kEach, int kFirst, int kCount, class X, int kRows, int kColumns, int kLength>
__device__ __forceinline__ void pick(const X (&from)[kRows][kColumns], int at, int to, X (&v)[kLength]) {
    if constexpr (kCount == 1) {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            v[to + i] = ptx::moved<kFirst>(from[kFirst * kEach / kColumns][kFirst * kEach % kColumns + i]);
        }
    } else if (at < kFirst + kCount / 2) {
        pick<kEach, kFirst, kCount / 2>(from, at, to, v);
    } else {
        pick<kEach, kFirst + kCount / 2, kCount - kCount / 2>(from, at, to, v);
    }
}

// A warpgroup's part of a piece of a tile, for finish.cuh to add to the others.
template <class C>
__device__ __forceinline__ void store_piece(const GemmArguments& arguments, const BulkWork& work, int first,
                                            const float (&sums)[C::kHeights][C::kN / 2]) {
    constexpr Policy p = C::kPolicy;
    constexpr int kEights = C::kN / kEight;
    const int thread = ptx::thread_index_anew() % kWarpgroup, lane = thread % kWarpSize;
    const int row = first + thread / kWarpSize * kPatchRows + lane / 4;
    float* tile = arguments.partials + (2 * work.share + work.piece.slot) * p.m * p.n +
                  static_cast<int64_t>(row) * p.n + lane % 4 * 2;
    // A gated tile has its first factor's columns in one half and the second's in the other; as partial sums they lie
    // eight by eight in turn.
    const bool gated = arguments.epilogue.gated;
    const int second = gated ? kEight : C::kN / 2, next = gated ? 2 * kEight : kEight;
#pragma unroll
    for (int height = 0; height < C::kHeights; ++height) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            float* at = tile + 64 * height * p.n + part * second;
#pragma unroll
            for (int j = 0; j < kEights / 2; ++j) {
                const float* sum = &sums[height][4 * (part * kEights / 2 + j)];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float x = sum[2 * half], y = sum[2 * half + 1];
                    Two<float>::rounded(x, y).store(at + half * 8 * p.n);
                }
                at += next;
            }
        }
    }
}

// The squares of a warp of a warpgroup, to the first of the places that the group's rows of a tile have; the others get
// none. By all lanes.
template <class C>
__device__ __forceinline__ void leave_squares(const GemmArguments& arguments, int tile, int warp_row, double squares) {
    constexpr Policy p = C::kPolicy;
    const int thread = ptx::thread_index_anew() % kWarpgroup, warp = thread / kWarpSize;
    static_assert(p.warps_n >= 4, "a place for each warp's squares");
    const EpilogueArguments& e = arguments.epilogue;
    const double sum = warp_sum(squares);
    const int mine = e.fine ? 0 : warp, patches = e.fine ? 64 / kPatchRows : 1;
    for (int column = thread % kWarpSize; column < p.warps_n; column += kWarpSize) {
        const bool is_mine = e.fine || column % 4 == warp;
        const SumSlots slots = sum_slots(arguments.schedule, tile, {0, 0, 0}, p.warps_m, p.warps_n, warp_row, column,
                                         patches, e.fine ? warp : 0);
        if (is_mine) e.squares[slots.squares] = column == mine ? sum : 0.0;
    }
}

// Where a warp's part of shared memory begins: that for outputs on their way.
struct OutRoom {
    char* all;  // of the warps that finish, kOutBuffers * kOutBytes each

    __device__ __forceinline__ char* of_warp() const {
        return all + (ptx::thread_index_anew() / kWarpSize - kWarpgroup / kWarpSize) * kOutBuffers * kOutBytes;
    }
    // Behind two slots for units: two rows of floats.
    __device__ __forceinline__ static float* sums_in(char* part) { return reinterpret_cast<float*>(part + kOutBytes); }
};

// Until the copy engine has read what a warp sent, or all of it but the last group. By all lanes.
__device__ __forceinline__ void wait_until_read(int lane, bool but_last) {
    if (lane == 0) {
        if (but_last) {
            ptx::tma_wait_read<1>();
        } else {
            ptx::tma_wait_read<0>();
        }
    }
    __syncwarp();
}

template <class C>
__device__ __forceinline__ OutRoom out_room() {
    return {shared_bytes_as<char>() + C::kStages * C::kStageBytes};
}

// Where a unit goes; no more than what cannot be found out again, since accumulators leave few registers. Rows and
// columns below are this lane's first.
struct PlaceInTile {
    const GemmArguments& arguments;
    const BulkArguments& bulk;
    const BulkWork& work;
    OutRoom room;
    int columns;  // of a tile
    int lane;
    int row;         // of its batch's
    int col;         // of the output
    double squares;  // of out, this lane's so far

    __device__ __forceinline__ const EpilogueArguments& e() const { return arguments.epilogue; }
    // As an output has it.
    __device__ __forceinline__ int64_t full_row() const { return work.place.batch * arguments.operands.m + row; }
    // Of the two rows of sums, the column that is this lane's: lane / 8 numbers its quad's four.
    __device__ __forceinline__ float* sum_of_column(int which) const {
        const int first = static_cast<int>(work.place.n) * columns;
        return OutRoom::sums_in(room.of_warp()) + which * columns + col - first + lane / 16 * kEight + lane / 8 % 2;
    }
    // What was stored is counted: squares, and sums of columns. By all lanes.
    template <class There>
    __device__ __forceinline__ void count(Output output, const There& there, int after = 0) {
        const bool is_out = output == Output::out;
        const bool is_squared = is_out && e().squares != nullptr;
        const bool is_summed =
            is_out ? e().column_sums != nullptr : output == Output::out2 && e().column_sums2 != nullptr;
        if (!is_squared && !is_summed) return;
        float v[kUnit];
#pragma unroll
        for (int i = 0; i < kUnit; ++i) v[i] = there(i);
        if (is_squared) squares += squares_of(v, kUnit);
        if (!is_summed) return;
        const float sum = sum_over_rows(v, lane);
        if ((lane & 4) == 0) sum_of_column(is_out ? 0 : 1)[after] = sum;  // two lanes have it
    }
};

// A unit of any epilogue.
struct UnitPlace : PlaceInTile {
    int box;     // the next kilobyte of the warp's room for an output on its way, of 2, or of 4
    bool odd;    // the second unit of a box
    bool whole;  // all rows and columns are there

    __device__ __forceinline__ bool has(int i) const {
        return row + 8 * (i / 2 % 2) < static_cast<int>(arguments.operands.m) &&
               col + i / 4 * kEight + i % 2 < static_cast<int>(e().cols);
    }
    __device__ __forceinline__ void look() {
        whole = row - lane / 4 + kPatchRows <= static_cast<int>(arguments.operands.m) &&
                col - 2 * (lane % 4) + kUnitColumns <= static_cast<int>(e().cols);
    }
    __device__ __forceinline__ bool is_few() const { return e().column_sums != nullptr; }

    template <class S>
    __device__ __forceinline__ void load_as(const Sheet& sheet, bool rows, float (&v)[kUnit]) const {
        const int64_t below = rows ? 8 * sheet.row_stride : 0;
        const S* at =
            static_cast<const S*>(sheet.data) + (rows ? full_row() * sheet.row_stride : 0) + col * sheet.col_stride;
        if (whole && sheet.vectors) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const Two<S> two = Two<S>::load(at + half * below + j * kEight);
                    v[4 * j + 2 * half] = two.first();
                    v[4 * j + 2 * half + 1] = two.second();
                }
            }
        } else {
#pragma unroll
            for (int i = 0; i < kUnit; ++i) {
                const int j = i / 4, half = i / 2 % 2;
                v[i] = has(i) ? to_f32(in_global_memory(at)[half * below + (j * kEight + i % 2) * sheet.col_stride])
                              : 0.0f;
            }
        }
    }
    __device__ __forceinline__ void load_any(const Sheet& sheet, bool rows, float (&v)[kUnit]) const {
        if (sheet.dtype == DType::f32) {
            load_as<float>(sheet, rows, v);
        } else if (sheet.dtype == DType::f16) {
            load_as<f16>(sheet, rows, v);
        } else {
            load_as<bf16>(sheet, rows, v);
        }
    }
    __device__ __forceinline__ void load(const Sheet& sheet, float (&v)[kUnit]) const { load_any(sheet, true, v); }
    __device__ __forceinline__ void load_added(const Sheet& sheet, float (&v)[kUnit]) const {
        load_any(sheet, true, v);
    }
    __device__ __forceinline__ void load_row(const Sheet& sheet, float (&v)[kUnit]) const { load_any(sheet, false, v); }

    // By all lanes.
    __device__ __forceinline__ void store(const Sheet& sheet, Output output, float (&v)[kUnit]) {
        if (sheet.dtype == DType::f32) {
            store_as<float>(sheet, v);
        } else if (sheet.dtype == DType::f16) {
            store_half<f16>(sheet, output, v);
        } else {
            store_half<bf16>(sheet, output, v);
        }
        count(output, [&](int i) { return whole || has(i) ? v[i] : 0.0f; });
    }
    template <class S>
    __device__ __forceinline__ void store_half(const Sheet& sheet, Output output, float (&v)[kUnit]) {
        if (bulk.is_sent[static_cast<int>(output)]) {
            send_as<S>(bulk.outputs[static_cast<int>(output)], v);
        } else {
            store_as<S>(sheet, v);
        }
    }
    template <class S>
    __device__ __forceinline__ void store_as(const Sheet& sheet, float (&v)[kUnit]) const {
        S* at = static_cast<S*>(sheet.data) + full_row() * sheet.row_stride + col;
        const bool pairs = whole && sheet.vectors;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float* x = &v[4 * j + 2 * half];
                const Two<S> two = Two<S>::rounded(x[0], x[1]);
                S* to = at + half * 8 * sheet.row_stride + j * kEight;
                if (pairs) {
                    two.store(to);
                } else {
                    if (has(4 * j + 2 * half)) in_global_memory(to)[0] = from_f32<S>(x[0]);
                    if (has(4 * j + 2 * half + 1)) in_global_memory(to)[1] = from_f32<S>(x[1]);
                }
            }
        }
    }
    // Each of a unit's outputs has a box of its own, in the order in which they come.
    template <class S>
    __device__ __forceinline__ void send_as(const ptx::TensorMap& map, float (&v)[kUnit]) {
        char* to = room.of_warp() + box * kPatchRows * kBoxRowBytes;
        box = (box + 1) & (is_few() ? 1 : 3);
        if (!odd) {
            // Up to two boxes of this unit are on their way in few, up to three in many.
            wait_until_read(lane, !is_few());
        }
        put_in_box<S>(v, 0, to, odd ? 1 : 0, lane);
        if (odd) {
            ptx::fence_proxy_async();
            __syncwarp();  // everybody's rows are there for the copy engine
            if (lane == 0) {
                ptx::tma_store(map, col - kUnitColumns, row, static_cast<int>(work.place.batch), to);
                ptx::tma_commit();
            }
        }
    }
};

// Two units side by side of a known kind: all of them there, halves in the operands' dtype T, c and out in S.
inline constexpr int kPair = 2 * kUnit, kPairColumns = 2 * kUnitColumns;

// A lane's part of a pair of a matrix, asked for before it is needed. What is taken makes room for the pair to come.
template <class X>
class LoadedPair {
  public:
    // From its first element on; `below`: to eight rows further down.
    __device__ __forceinline__ void load(const X* at, int64_t below) { load<0>(at, below); }

    // The next kCount; then as many of the next pair are asked for, if there is one, from the same place of it on.
    template <int kCount>
    __device__ __forceinline__ void take(float (&v)[kCount], bool more, const X* at, int64_t below) {
#pragma unroll
        for (int i = 0; i < kCount / 2; ++i) {
            v[2 * i] = two_[i].first();
            v[2 * i + 1] = two_[i].second();
        }
#pragma unroll
        for (int i = 0; i + kCount / 2 < kPair / 2; ++i) two_[i] = two_[i + kCount / 2];
        if (more) load<(kPair - kCount) / 2>(at, below);
    }

  private:
    template <int kFirst>
    __device__ __forceinline__ void load(const X* at, int64_t below) {
#pragma unroll
        for (int i = kFirst; i < kPair / 2; ++i) {
            two_[i] = Two<X>::load(at + i % 2 * below + (i - kFirst) / 2 * kEight);
        }
    }

    Two<X> two_[kPair / 2];
};

template <Kind kKind, class T, class S>
struct PairPlace : PlaceInTile {
    char* boxes;  // of the pair's outputs that leave by the copy engine, a kilobyte each
    bool last;    // of its row of pairs
    int unit;     // of the pair: the first of those at hand
    LoadedPair<S> ahead;
    LoadedPair<T> up_ahead;

    __device__ __forceinline__ void begin() {
        const Sheet& first = kKind == Kind::added || kKind == Kind::accumulated ? e().c : e().grad_preact;
        ahead.load(at<S>(first, 0), 8 * first.row_stride);
        if (kKind == Kind::gated_gradient) up_ahead.load(at<T>(e().grad_up, 0), 8 * e().grad_up.row_stride);
    }
    template <int kCount>
    __device__ __forceinline__ void load(const Sheet& sheet, float (&v)[kCount]) {
        const int there = kPairColumns + unit * kUnitColumns;
        if (kKind == Kind::gated_gradient && &sheet == &e().grad_up) {
            up_ahead.take(v, !last, at<T>(sheet, there), 8 * sheet.row_stride);
        } else {
            ahead.take(v, !last, at<S>(sheet, there), 8 * sheet.row_stride);
        }
    }
    template <int kCount>
    __device__ __forceinline__ void load_added(const Sheet& sheet, float (&v)[kCount]) {
        load(sheet, v);
    }
    template <int kCount>
    __device__ __forceinline__ void load_row(const Sheet& sheet, float (&v)[kCount]) const {
        const T* row_at = static_cast<const T*>(sheet.data) + col + unit * kUnitColumns;
#pragma unroll
        for (int i = 0; i < kCount; i += 4) {
            const Two<T> two = Two<T>::load(row_at + i / 4 * kEight);
            v[i] = v[i + 2] = two.first();
            v[i + 1] = v[i + 3] = two.second();
        }
    }

    template <int kCount>
    __device__ __forceinline__ void store(const Sheet& sheet, Output output, float (&v)[kCount]) {
        if (kKind == Kind::accumulated) {
            S* to = static_cast<S*>(sheet.data) + full_row() * sheet.row_stride + col + unit * kUnitColumns;
#pragma unroll
            for (int i = 0; i < kCount; i += 2) {
                Two<S>::rounded(v[i], v[i + 1]).store(to + i / 2 % 2 * 8 * sheet.row_stride + i / 4 * kEight);
            }
        } else {
#pragma unroll
            for (int i = 0; i < kCount / kUnit; ++i) put_in_box<T>(v, i * kUnit, box_of(output), unit + i, lane);
        }
#pragma unroll
        for (int i = 0; i < kCount / kUnit; ++i) {
            count(output, [&](int j) { return v[i * kUnit + j]; }, (unit + i) * kUnitColumns);
        }
    }
    // What the kind has put into boxes. By all lanes.
    __device__ __forceinline__ void send() const {
        if (kKind == Kind::accumulated) return;
        ptx::fence_proxy_async();
        __syncwarp();  // everybody's rows are there for the copy engine
        if (lane == 0) {
            send(Output::out);
            if (kKind == Kind::gated_gradient) send(Output::out2);
            ptx::tma_commit();
        }
    }

  private:
    template <class X>
    __device__ __forceinline__ const X* at(const Sheet& sheet, int columns) const {
        return static_cast<const X*>(sheet.data) + full_row() * sheet.row_stride + col + columns;
    }
    __device__ __forceinline__ char* box_of(Output output) const {
        return boxes + (output == Output::out2 ? kPatchRows * kBoxRowBytes : 0);
    }
    __device__ __forceinline__ void send(Output output) const {
        ptx::tma_store(bulk.outputs[static_cast<int>(output)], col, row, static_cast<int>(work.place.batch),
                       box_of(output));
    }
};

}  // namespace halfops::linear
