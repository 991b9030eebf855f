// A warp's sixteen rows of accumulators become outputs, in the registers where wgmma leaves them.
//
// A row's eight neighbours are in the four lanes of a quad, two each. Outputs of 16 bits are put into shared memory as
// they are, by stmatrix, and leave by the copy engine; whatever else is read or written goes two neighbours at a time,
// which together are whole sectors of memory for floats, and of L1 for halves.
#pragma once

#include "linear/bulk_places.cuh"

namespace halfops::linear {

// AnyEnding's answers for a kind that reads a matrix.
template <Kind kKind>
struct KnownEnding {
    // A gated gradient has three arrays, for which there are not registers enough beside the accumulators.
    static constexpr int kAtOnce = kKind == Kind::gated_gradient ? kUnit : kPair;
    static __device__ __forceinline__ bool is_gradient(const EpilogueArguments&) {
        return kKind == Kind::gradient || kKind == Kind::gated_gradient;
    }
    static __device__ __forceinline__ bool is_gated_gradient(const EpilogueArguments&) {
        return kKind == Kind::gated_gradient;
    }
    static __device__ __forceinline__ bool is_gated(const EpilogueArguments&) { return false; }
    static __device__ __forceinline__ bool is_activated(const EpilogueArguments&) { return false; }
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

    __device__ __forceinline__ BulkFinisher(const GemmArguments& arguments, const BulkArguments& bulk)
        : arguments_(arguments), bulk_(bulk) {}

    // A warpgroup's rows of a whole tile, which begin at row `first` of the tile's.
    __device__ __forceinline__ void take(const BulkWork& work, int first, const Sums& sums) {
        const int thread = ptx::thread_index_anew();
        lane_ = thread % kWarpSize;
        warp_ = thread / kWarpSize % 4;
        wait_until_read(lane_, false);  // of the tile before
#pragma unroll 1
        for (int height = 0; height < C::kHeights; ++height) {
            if (bulk_.kind == Kind::any || !is_inside(work, first + 64 * height)) {
                finish_rows(work, first, height, sums);
            } else {
                finish_known(work, first, height, sums);
            }
        }
    }

    // Nothing is left to do.
    __device__ __forceinline__ bool has_left() const { return false; }
    __device__ __forceinline__ void beside_step() const {}

  private:
    static constexpr int kUnits = C::kN / kUnitColumns;

    // A unit's accumulators to element `to` and behind it.
    template <int kLength>
    __device__ __forceinline__ static void pick_unit(const Sums& sums, int height, int unit, int to,
                                                     float (&v)[kLength]) {
        pick<kUnit, 0, C::kHeights * kUnits>(sums, height * kUnits + unit, to, v);
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
            pick_unit(sums, height, unit, 0, v);
            if (e.gated) pick_unit(sums, height, unit + kUnits / 2, 0, v2);
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
                out_room<C>(),
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
               (work.place.n + 1) * C::kN <= e.cols;
    }

    __device__ __forceinline__ void finish_known(const BulkWork& work, int first, int height, const Sums& sums) {
        using T = typename C::T;
        switch (bulk_.kind) {
            case Kind::gradient:
                return finish_pairs<Kind::gradient, T>(work, first, height, sums);
            case Kind::gated_gradient:
                return finish_pairs<Kind::gated_gradient, T>(work, first, height, sums);
            case Kind::added:
                return finish_pairs<Kind::added, T>(work, first, height, sums);
            default:
                return finish_pairs<Kind::accumulated, float>(work, first, height, sums);
        }
    }

    template <Kind kKind, class S>
    __device__ __forceinline__ void finish_pairs(const BulkWork& work, int first, int height, const Sums& sums) {
        using T = typename C::T;
        constexpr int kPairs = kUnits / 2, kBoxes = kKind == Kind::gated_gradient ? 2 : 1;
        const int row = static_cast<int>(work.place.m) * C::kPolicy.m + first + 64 * height + warp_ * kPatchRows;
        PairPlace<kKind, T, S> place{place_of(work, row, C::kN), nullptr, false, 0, {}, {}};
        place.begin();
        // Boxes of one pair are read by the copy engine while the next pair's are filled, if there is room for both:
        // sums of columns take half of it.
        const bool twice = kBoxes == 1 || arguments_.epilogue.column_sums == nullptr;
#pragma unroll 1
        for (int pair = 0; pair < kPairs; ++pair) {
            if (kKind != Kind::accumulated) {
                wait_until_read(lane_, twice);
                place.boxes = out_room<C>().of_warp() + (twice ? pair % 2 * kBoxes * kPatchRows * kBoxRowBytes : 0);
            }
            place.last = pair == kPairs - 1;
            constexpr int kAtOnce = KnownEnding<kKind>::kAtOnce, kUnitsAtOnce = kAtOnce / kUnit;
#pragma unroll 1
            for (place.unit = 0; place.unit < kPair / kUnit; place.unit += kUnitsAtOnce) {
                float v[kAtOnce], second[kAtOnce];
#pragma unroll
                for (int i = 0; i < kUnitsAtOnce; ++i) {
                    pick_unit(sums, height, 2 * pair + place.unit + i, i * kUnit, v);
                }
                finish_values<KnownEnding<kKind>>(arguments_.epilogue, place, v, second);
            }
            place.send();
            place.col += kPairColumns;
        }
        leave_sums(work, first / 64 + height, place.squares);
    }

    // The warpgroup's sums of columns over its 64 rows, in the order of its warps, or if fine each warp's own; and each
    // warp's squares.
    __device__ __forceinline__ void leave_sums(const BulkWork& work, int warp_row, double squares) {
        const EpilogueArguments& e = arguments_.epilogue;
        if (e.squares != nullptr) leave_squares<C>(arguments_, work.piece.tile, warp_row, squares);
        if (e.column_sums == nullptr) return;
        static_assert(2 * C::kN * 4 <= kOutBytes, "room for the sums of a warp");
        constexpr Policy p = C::kPolicy;
        const int patches = e.fine ? 64 / kPatchRows : 1, patch = e.fine ? warp_ : 0;
        const int64_t slot = sum_slots(arguments_.schedule, work.piece.tile, work.place, p.warps_m, p.warps_n, warp_row,
                                       0, patches, patch)
                                 .columns;
        const int64_t col = work.place.n * C::kN;
        const int barrier = 3 + static_cast<int>(threadIdx.x) / kWarpgroup;
        if (e.fine) {
            __syncwarp();  // the sums are there for every lane
        } else {
            ptx::named_barrier_sync<kWarpgroup>(barrier);  // all four warps' sums are there
        }
        const int threads = e.fine ? kWarpSize : kWarpgroup;
        char* group = out_room<C>().of_warp() - (e.fine ? 0 : warp_ * kOutBuffers * kOutBytes);
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
    int warp_, lane_;
};

}  // namespace halfops::linear
