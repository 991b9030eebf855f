// Where accumulators of a bulk kernel go: a unit of them, sixteen rows and columns of a warp, or a pair side by side.
#pragma once

#include "linear/bulk_config.cuh"
#include "linear/kernel.cuh"
#include "ptx/roles.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"

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

template <class S, int kCount>
__device__ __forceinline__ void put_in_box(float (&v)[kCount], int first, char* box, int half, int lane) {
    const int line = lane % kPatchRows, chunk = 2 * half + lane / kPatchRows;
    uint32_t pairs[4];
    pack<S>(v, first, pairs);
    ptx::stmatrix_x4(box + line * kBoxRowBytes + (chunk ^ line / 2 % 4) * 16, pairs);
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
            if (lane == 0) {
                if (is_few()) {
                    ptx::tma_wait_read<0>();
                } else {
                    ptx::tma_wait_read<1>();
                }
            }
            __syncwarp();  // the box has been read
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

template <Kind kKind, class T, class S>
struct PairPlace : PlaceInTile {
    char* boxes;  // of the pair's outputs that leave by the copy engine, a kilobyte each

    template <class X>
    __device__ __forceinline__ void load_as(const Sheet& sheet, bool rows, float (&v)[kPair]) const {
        const int64_t below = rows ? 8 * sheet.row_stride : 0;
        const X* at = static_cast<const X*>(sheet.data) + (rows ? full_row() * sheet.row_stride : 0) + col;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Two<X> two = Two<X>::load(at + half * below + j * kEight);
                v[4 * j + 2 * half] = two.first();
                v[4 * j + 2 * half + 1] = two.second();
            }
        }
    }
    __device__ __forceinline__ void load(const Sheet& sheet, float (&v)[kPair]) const { load_as<T>(sheet, true, v); }
    __device__ __forceinline__ void load_row(const Sheet& sheet, float (&v)[kPair]) const {
        load_as<T>(sheet, false, v);
    }
    __device__ __forceinline__ void load_added(const Sheet& sheet, float (&v)[kPair]) const {
        load_as<S>(sheet, true, v);
    }

    __device__ __forceinline__ void store(const Sheet& sheet, Output output, float (&v)[kPair]) {
        if (sizeof(S) == 4 && output == Output::out) {
            S* at = static_cast<S*>(sheet.data) + full_row() * sheet.row_stride + col;
#pragma unroll
            for (int i = 0; i < kPair; i += 2) {
                Two<S>::rounded(v[i], v[i + 1]).store(at + i / 2 % 2 * 8 * sheet.row_stride + i / 4 * kEight);
            }
        } else {
#pragma unroll
            for (int unit = 0; unit < 2; ++unit) put_in_box<T>(v, unit * kUnit, box_of(output), unit, lane);
        }
#pragma unroll
        for (int unit = 0; unit < 2; ++unit) {
            count(output, [&](int i) { return v[unit * kUnit + i]; }, unit * kUnitColumns);
        }
    }
    __device__ __forceinline__ char* box_of(Output output) const {
        const int number = output == Output::out ? 0 : output == Output::preact2 ? 2 : 1;
        return boxes + number * kPatchRows * kBoxRowBytes;
    }
    // What the kind has put into boxes. By all lanes.
    __device__ __forceinline__ void send() const {
        if (kKind == Kind::accumulated) return;
        ptx::fence_proxy_async();
        __syncwarp();  // everybody's rows are there for the copy engine
        if (lane == 0) {
            send(Output::out);
            if ((kKind == Kind::activated || kKind == Kind::gated) && e().preact.data != nullptr) send(Output::preact);
            if (kKind == Kind::gated && e().preact2.data != nullptr) send(Output::preact2);
            ptx::tma_commit();
        }
    }
    __device__ __forceinline__ void send(Output output) const {
        ptx::tma_store(bulk.outputs[static_cast<int>(output)], col, row, static_cast<int>(work.place.batch),
                       box_of(output));
    }
};

}  // namespace halfops::linear
