// A warp's sixteen rows of accumulators become outputs, in the registers where wgmma leaves them.
//
// A row's eight neighbours are in the four lanes of a quad, two each. Outputs of 16 bits are put into shared memory as
// they are, by stmatrix, and leave by the copy engine; whatever else is read or written goes two neighbours at a time,
// which together are whole sectors of memory for floats, and of L1 for halves.
#pragma once

#include "linear/bulk_places.cuh"
#include "ptx/cluster.cuh"
#include "ptx/wgmma.cuh"

namespace halfops::linear {

// AnyEnding's answers for a kind.
template <Kind kKind>
struct KnownEnding {
    static constexpr int kAtOnce = kPair;
    static __device__ __forceinline__ bool is_gradient(const EpilogueArguments&) { return kKind == Kind::gradient; }
    static __device__ __forceinline__ bool is_gated_gradient(const EpilogueArguments&) { return false; }
    static __device__ __forceinline__ bool is_gated(const EpilogueArguments&) { return kKind == Kind::gated; }
    static __device__ __forceinline__ bool is_activated(const EpilogueArguments&) { return kKind == Kind::activated; }
    static __device__ __forceinline__ bool adds(const EpilogueArguments&) {
        return kKind == Kind::added || kKind == Kind::accumulated;
    }
    template <class F>
    static __device__ __forceinline__ void with_activation(const EpilogueArguments& e, const F& f) {
        AnyEnding::with_activation(e, f);
    }
};

template <class C>
class BulkFinisher {
  public:
    using Sums = float[C::kHeights][C::kN / 2];  // as Multiplier has them

    // For one tile.
    __device__ __forceinline__ BulkFinisher(const GemmArguments& arguments, const BulkArguments& bulk, char* out)
        : arguments_(arguments), bulk_(bulk), room_{out} {
        const int thread = ptx::thread_index_anew();
        lane_ = thread % kWarpSize;
        warp_ = thread / kWarpSize % 4;
    }

    // A warpgroup's rows of a tile, which begin at row `first` of the block's.
    __device__ __forceinline__ void finish(const BulkWork& work, int first, const Sums& sums) {
        const int rank = C::kCluster > 1 ? static_cast<int>(ptx::cluster_rank()) : 0;
        const int row = rank * C::kM + first;  // in the tile
        if (!arguments_.schedule.is_whole(work.piece)) {
#pragma unroll
            for (int height = 0; height < C::kHeights; ++height) store_partial(work, row, height, sums[height]);
            return;
        }
        if (lane_ == 0) ptx::tma_wait_read<0>();  // of the tile before
        __syncwarp();
        if (bulk_.kind == Kind::plain) {
#pragma unroll
            for (int height = 0; height < C::kHeights; ++height) {
                arguments_.epilogue.bare ? send<true>(work, row, height, sums[height])
                                         : send<false>(work, row, height, sums[height]);
            }
            return;
        }
#pragma unroll 1
        for (int height = 0; height < C::kHeights; ++height) {
            if (bulk_.kind == Kind::any || !is_inside(work, row + 64 * height)) {
                finish_rows(work, row, height, sums);
            } else {
                finish_known(work, row, height, sums);
            }
        }
    }

  private:
    static constexpr int kUnits = C::kN / kUnitColumns;

    // A unit's accumulators. A loop over units that is not unrolled finds its registers by branches.
    template <int kFirst, int kCount, int kLength>
    __device__ __forceinline__ static void pick(const Sums& sums, int at, int to, float (&v)[kLength]) {
        if constexpr (kCount == 1) {
#pragma unroll
            for (int i = 0; i < kUnit; ++i) {
                v[to + i] = ptx::moved<kFirst>(sums[kFirst / kUnits][kFirst % kUnits * kUnit + i]);
            }
        } else if (at < kFirst + kCount / 2) {
            pick<kFirst, kCount / 2>(sums, at, to, v);
        } else {
            pick<kFirst + kCount / 2, kCount - kCount / 2>(sums, at, to, v);
        }
    }
    // To element `to` and behind it.
    template <int kLength>
    __device__ __forceinline__ static void pick(const Sums& sums, int height, int unit, int to, float (&v)[kLength]) {
        pick<0, C::kHeights * kUnits>(sums, height * kUnits + unit, to, v);
    }

    __device__ __forceinline__ void store_partial(const BulkWork& work, int first, int height,
                                                  const float (&sums)[C::kN / 2]) const {
        constexpr Policy p = C::kPolicy;
        constexpr int kEights = C::kN / kEight;
        const bool gated = arguments_.epilogue.gated;
        const int row = first + 64 * height + warp_ * kPatchRows + lane_ / 4;
        float* tile = arguments_.partials + (2 * work.share + work.piece.slot) * p.m * p.n +
                      static_cast<int64_t>(row) * p.n + lane_ % 4 * 2;
#pragma unroll
        for (int j = 0; j < kEights; ++j) {
            // A gated tile has its first factor's columns in one half and the second's in the other; as partial sums
            // they lie eight by eight in turn.
            const int eight = !gated ? j : j < kEights / 2 ? 2 * j : 2 * (j - kEights / 2) + 1;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float x = sums[4 * j + 2 * half], y = sums[4 * j + 2 * half + 1];
                Two<float>::rounded(x, y).store(tile + half * 8 * p.n + eight * kEight);
            }
        }
    }

    // Sixty-four columns at a time, through one of two buffers. Written out: it is most of what a plain tile costs. And
    // for bare accumulators once more, because code that runs once a launch comes from memory: half as long, without
    // a branch.
    template <bool kBare>
    __device__ __forceinline__ void send(const BulkWork& work, int first, int height, const float (&sums)[C::kN / 2]) {
        using T = typename C::T;
        const EpilogueArguments& e = arguments_.epilogue;
        const int row = static_cast<int>(work.place.m) * C::kPolicy.m + first + 64 * height + warp_ * kPatchRows;
        const int col = static_cast<int>(work.place.n) * C::kN, line = lane_ % kPatchRows;
        char* room = room_.of_warp();
#pragma unroll
        for (int part = 0; part < C::kN / 64; ++part) {
            char* buffer = room + part % kOutBuffers * kOutBytes;
            float bias[8][2] = {};
            if (!kBare && e.bias.data != nullptr) {
#pragma unroll
                for (int eight = 0; eight < 8; ++eight) {
                    const int at = col + (part * 8 + eight) * kEight + lane_ % 4 * 2;
                    if (at < e.cols) {
                        const Two<T> two = Two<T>::load(static_cast<const T*>(e.bias.data) + at);
                        bias[eight][0] = two.first();
                        bias[eight][1] = two.second();
                    }
                }
            }
            if (part >= kOutBuffers) {
                if (lane_ == 0) ptx::tma_wait_read<kOutBuffers - 1>();
                __syncwarp();  // the buffer has been read
            }
            const auto finished = [&](int i) {
                const float sum = sums[part * 32 + i];
                return kBare ? sum : AddBias{}(Scale{e.alpha}(sum), bias[i / 4][i % 2]);
            };
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                uint32_t pairs[4];
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    pairs[j] = pair_from_f32<T>(finished(8 * i + 2 * j), finished(8 * i + 2 * j + 1));
                }
                const int chunk = 2 * i + lane_ / kPatchRows;
                ptx::stmatrix_x4(buffer + line * C::kLineBytes + (chunk ^ line % 8) * 16, pairs);
            }
            ptx::fence_proxy_async();
            __syncwarp();  // everybody's rows are there for the copy engine
            if (lane_ == 0) {
                ptx::tma_store(bulk_.out, col + part * 64, row, static_cast<int>(work.place.batch), buffer);
                ptx::tma_commit();
            }
        }
    }

    __device__ __forceinline__ void finish_rows(const BulkWork& work, int first, int height, const Sums& sums) {
        constexpr Policy p = C::kPolicy;
        const EpilogueArguments& e = arguments_.epilogue;
        const int row = static_cast<int>(work.place.m) * p.m + first + 64 * height + warp_ * kPatchRows;
        const int units = e.gated ? kUnits / 2 : kUnits, columns = e.gated ? C::kN / 2 : C::kN;
        UnitPlace place{place_of(work, row, columns), 0, false, false};
#pragma unroll 1
        for (int unit = 0; unit < units; ++unit) {
            float v[kUnit], v2[kUnit];
            pick(sums, height, unit, 0, v);
            if (e.gated) pick(sums, height, unit + kUnits / 2, 0, v2);
            place.look();
            place.odd = unit % 2 != 0;
            const int first_box = place.box;
            finish_values<AnyEnding>(e, place, v, v2);
            if (!place.odd) place.box = first_box;
            place.col += kUnitColumns;
        }
        leave_sums(work, first / 64 + height, place.squares);
    }

    __device__ __forceinline__ PlaceInTile place_of(const BulkWork& work, int row, int columns) const {
        return {arguments_,
                bulk_,
                work,
                room_,
                columns,
                lane_,
                row + lane_ / 4,
                static_cast<int>(work.place.n) * columns + 2 * (lane_ % 4),
                0.0};
    }

    // Whether the output has all of the warpgroup's 64 rows from row `first` of the tile on, and all columns.
    __device__ __forceinline__ bool is_inside(const BulkWork& work, int first) const {
        const EpilogueArguments& e = arguments_.epilogue;
        return work.place.m * C::kPolicy.m + first + 64 <= arguments_.operands.m &&
               (work.place.n + 1) * (e.gated ? C::kN / 2 : C::kN) <= e.cols;
    }

    __device__ __forceinline__ void finish_known(const BulkWork& work, int first, int height, const Sums& sums) {
        using T = typename C::T;
        switch (bulk_.kind) {
            case Kind::activated:
                return finish_pairs<Kind::activated, T>(work, first, height, sums);
            case Kind::gradient:
                return finish_pairs<Kind::gradient, T>(work, first, height, sums);
            case Kind::gated:
                return finish_pairs<Kind::gated, T>(work, first, height, sums);
            case Kind::added:
                return finish_pairs<Kind::added, T>(work, first, height, sums);
            default:
                return finish_pairs<Kind::accumulated, float>(work, first, height, sums);
        }
    }

    template <Kind kKind, class S>
    __device__ __forceinline__ void finish_pairs(const BulkWork& work, int first, int height, const Sums& sums) {
        using T = typename C::T;
        constexpr bool kGated = kKind == Kind::gated;
        constexpr int kPairs = (kGated ? kUnits / 2 : kUnits) / 2, kColumns = kGated ? C::kN / 2 : C::kN;
        // Boxes of one pair are read by the copy engine while the next pair's are filled, if there is room for both.
        constexpr bool kTwice = kKind == Kind::activated || kKind == Kind::added || kKind == Kind::gradient;
        constexpr int kBoxes = kKind == Kind::gradient ? 1 : 2;
        const int row = static_cast<int>(work.place.m) * C::kPolicy.m + first + 64 * height + warp_ * kPatchRows;
        PairPlace<kKind, T, S> place{place_of(work, row, kColumns), nullptr};
#pragma unroll 1
        for (int pair = 0; pair < kPairs; ++pair) {
            float v[kPair], v2[kPair];
            pick_pair(sums, height, pair, v);
            if (kGated) pick_pair(sums, height, pair + kPairs, v2);
            if (kKind != Kind::accumulated) {
                if (lane_ == 0) ptx::tma_wait_read<(kTwice ? 1 : 0)>();
                __syncwarp();  // the boxes have been read
                place.boxes = room_.of_warp() + (kTwice ? pair % 2 * kBoxes * kPatchRows * kBoxRowBytes : 0);
            }
            finish_values<KnownEnding<kKind>>(arguments_.epilogue, place, v, v2);
            place.send();
            place.col += kPairColumns;
        }
        leave_sums(work, first / 64 + height, place.squares);
    }

    __device__ __forceinline__ static void pick_pair(const Sums& sums, int height, int pair, float (&v)[kPair]) {
#pragma unroll
        for (int unit = 0; unit < 2; ++unit) {
            pick(sums, height, 2 * pair + unit, unit * kUnit, v);
        }
    }

    // The warpgroup's sums of columns over its 64 rows, in the order of its warps, or if fine each warp's own; and a
    // place for each warp's squares.
    __device__ __forceinline__ void leave_sums(const BulkWork& work, int warp_row, double squares) {
        constexpr Policy p = C::kPolicy;
        static_assert(p.warps_n >= 4, "a place for each warp's squares");
        const EpilogueArguments& e = arguments_.epilogue;
        const int patches = e.fine ? 64 / kPatchRows : 1;
        const auto slots = [&](int warp_column) {
            return sum_slots(arguments_.schedule, work.piece.tile, work.place, p.warps_m, p.warps_n, warp_row,
                             warp_column, patches, e.fine ? warp_ : 0);
        };
        if (e.squares != nullptr) {
            const double sum = warp_sum(squares);
            const int mine = e.fine ? 0 : warp_;
            for (int column = lane_; column < p.warps_n; column += kWarpSize) {
                if (column == mine) {
                    e.squares[slots(column).squares] = sum;
                } else if (e.fine || (column >= 4 && column % 4 == warp_)) {
                    e.squares[slots(column).squares] = 0.0;
                }
            }
        }
        if (e.column_sums == nullptr) return;
        static_assert(2 * C::kN * 4 <= kOutBytes, "room for the sums of a warp");
        const int64_t slot = slots(0).columns, col = work.place.n * C::kN;
        const int barrier = 3 + static_cast<int>(threadIdx.x) / kWarpgroup;
        if (e.fine) {
            __syncwarp();  // the sums are there for every lane
        } else {
            ptx::named_barrier_sync<kWarpgroup>(barrier);  // all four warps' sums are there
        }
        const int threads = e.fine ? kWarpSize : kWarpgroup;
        char* group = room_.of_warp() - (e.fine ? 0 : warp_ * kOutBuffers * kOutBytes);
        const int members = e.fine ? 1 : 4;
        for (int which = 0; which < 2; ++which) {
            float* to = which == 0 ? e.column_sums : e.column_sums2;
            if (to == nullptr) continue;
            for (int c = static_cast<int>(threadIdx.x) % threads; c < C::kN && col + c < e.cols; c += threads) {
                float sum = 0.0f;
                for (int i = 0; i < members; ++i) {
                    sum += OutRoom::sums_in(group + i * kOutBuffers * kOutBytes)[which * C::kN + c];
                }
                to[slot * e.cols + col + c] = sum;
            }
        }
        if (e.fine) {
            __syncwarp();  // they have been read
        } else {
            ptx::named_barrier_sync<kWarpgroup>(barrier);
        }
    }

    const GemmArguments& arguments_;
    const BulkArguments& bulk_;
    OutRoom room_;
    int warp_, lane_;
};

}  // namespace halfops::linear
