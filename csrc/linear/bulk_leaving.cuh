// Outputs of a tile that leave while the next one is multiplied.
//
// Without an activation an output is rounded once, and with one its input is (linear/epilogue.h). So, once alpha and
// bias are applied, a tile has room in half of its accumulators' registers, two numbers each, and the next tile gets
// the accumulators. The rest, activations and the way to memory, is done portion by portion behind that one's steps,
// while the tensor cores are at work.
#pragma once

#include "linear/bulk_places.cuh"
#include "ptx/roles.cuh"

namespace halfops::linear {

template <class C>
class Leaving {
  public:
    using Sums = float[C::kHeights][C::kN / 2];  // as Multiplier has them

    __device__ __forceinline__ Leaving(const GemmArguments& arguments, const BulkArguments& bulk)
        : arguments_(arguments), bulk_(bulk) {}

    __device__ __forceinline__ static bool suits(Kind kind) {
        return kind == Kind::plain || kind == Kind::activated || kind == Kind::gated;
    }

    // A warpgroup's rows of a whole tile, which begin at row `first` of the tile's.
    __device__ __forceinline__ void take(const BulkWork& work, int first, const Sums& sums) {
        const EpilogueArguments& e = arguments_.epilogue;
        row_ = static_cast<int>(work.place.m) * C::kPolicy.m + first + warp_in_group() * kPatchRows;
        col_ = static_cast<int>(work.place.n) * (e.gated ? C::kN / 2 : C::kN);
        batch_ = static_cast<int>(work.place.batch);
        // Code that runs once a launch comes from memory: bare accumulators have some of their own, without a branch.
        if (e.bare) {
            round(sums);
        } else {
            round_with_bias(sums);
        }
        if (e.squares != nullptr) count_squares(work, first);
        left_ =
            bulk_.kind == Kind::plain ? kPlainPortions : C::kHeights * kUnits / (bulk_.kind == Kind::gated ? 2 : 1) / 2;
        wait_until_read(ptx::thread_index_anew() % kWarpSize, false);  // a tile begins with any of the boxes
#pragma unroll 1
        while (C::kAlternate && left_ > 0) send_some();  // beside the other warpgroup's steps
    }

    __device__ __forceinline__ bool has_left() const { return !C::kAlternate && left_ > 0; }
    __device__ __forceinline__ void beside_step() {
        if (has_left()) send_some();
    }

  private:
    using T = typename C::T;
    static constexpr int kUnits = C::kN / kUnitColumns, kWordsOfUnit = kUnit / 2;
    static constexpr int kPlainPortions = C::kHeights * C::kN / 64;

    __device__ __forceinline__ static int warp_in_group() {
        return ptx::thread_index_anew() / kWarpSize % (kWarpgroup / kWarpSize);
    }

    __device__ __forceinline__ void round(const Sums& sums) {
#pragma unroll
        for (int height = 0; height < C::kHeights; ++height) {
#pragma unroll
            for (int i = 0; i < C::kN / 4; ++i) {
                words_[height][i] = pair_from_f32<T>(sums[height][2 * i], sums[height][2 * i + 1]);
            }
        }
    }

    __device__ __forceinline__ void round_with_bias(const Sums& sums) {
        const EpilogueArguments& e = arguments_.epilogue;
        // A gated tile has its second factor's columns in the other half; alpha is the first one's.
        const bool gated = e.gated;
        const auto* first = static_cast<const T*>(e.bias.data);
        const auto* second = gated ? static_cast<const T*>(e.bias2.data) : first;
        const float alphas[2] = {e.alpha, gated ? 1.0f : e.alpha};
        const int begin = col_ + ptx::thread_index_anew() % 4 * 2;
#pragma unroll
        for (int eight = 0; eight < C::kN / kEight; ++eight) {
            const int half = eight < C::kN / kEight / 2 ? 0 : 1;
            const T* bias = half == 0 ? first : second;
            const int at = begin + eight * kEight - (half == 1 && gated ? C::kN / 2 : 0);
            float added[2] = {-0.0f, -0.0f};  // which changes no number
            if (bias != nullptr && at < e.cols) {
                const Two<T> two = Two<T>::load(bias + at);
                added[0] = two.first();
                added[1] = two.second();
            }
#pragma unroll
            for (int height = 0; height < C::kHeights; ++height) {
#pragma unroll
                for (int row = 0; row < 2; ++row) {
                    const float* sum = &sums[height][4 * eight + 2 * row];
                    words_[height][2 * eight + row] =
                        pair_from_f32<T>(AddBias{}(Scale{alphas[half]}(sum[0]), added[0]),
                                         AddBias{}(Scale{alphas[half]}(sum[1]), added[1]));
                }
            }
        }
    }

    // Of the output alone: beside it, zeros times an infinite operand would be NaN.
    __device__ __forceinline__ void count_squares(const BulkWork& work, int first) const {
        const int lane = ptx::thread_index_anew() % kWarpSize;
        const int columns = static_cast<int>(arguments_.epilogue.cols) - col_ - lane % 4 * 2;
#pragma unroll
        for (int height = 0; height < C::kHeights; ++height) {
            const int rows = static_cast<int>(arguments_.operands.m) - row_ - 64 * height - lane / 4;
            double squares = 0.0;
#pragma unroll
            for (int i = 0; i < C::kN / 4; ++i) {
                const Two<T> two{i % 2 * 8 < rows && i / 2 * kEight < columns ? words_[height][i] : 0};
                const float v[2] = {two.first(), two.second()};
                squares += squares_of(v, 2);
            }
            leave_squares<C>(arguments_, work.piece.tile, first / 64 + height, squares);
        }
    }

    // Sixty-four columns of plain outputs, thirty-two of others.
    __device__ __forceinline__ void send_some() {
        --left_;
        if (bulk_.kind == Kind::plain) {
            send_plain<0>();
        } else {
            send_activated();
        }
    }

    // Through one of two buffers.
    template <int kPortion>
    __device__ __forceinline__ void send_plain() {
        if constexpr (kPortion + 1 < kPlainPortions) {
            if (left_ != kPortion) return send_plain<kPortion + 1>();
        }
        constexpr int kHeight = kPortion / (C::kN / 64), kPart = kPortion % (C::kN / 64);
        const int lane = ptx::thread_index_anew() % kWarpSize, line = lane % kPatchRows;
        char* buffer = out_room<C>().of_warp() + kPortion % kOutBuffers * kOutBytes;
        static_assert(kOutBuffers == 2, "one is read while the other is filled");
        wait_until_read(lane, true);
#pragma unroll
        for (int unit = 0; unit < 4; ++unit) {
            uint32_t pairs[kWordsOfUnit];
#pragma unroll
            for (int i = 0; i < kWordsOfUnit; ++i) pairs[i] = words_[kHeight][(kPart * 4 + unit) * kWordsOfUnit + i];
            const int chunk = 2 * unit + lane / kPatchRows;
            ptx::stmatrix_x4(buffer + line * C::kLineBytes + (chunk ^ line % 8) * 16, pairs);
        }
        ptx::fence_proxy_async();
        __syncwarp();  // everybody's rows are there for the copy engine
        if (lane == 0) {
            ptx::tma_store(bulk_.out, col_ + kPart * 64, row_ + kHeight * 64, batch_, buffer);
            ptx::tma_commit();
        }
    }

    // Boxes of one portion are read by the copy engine while the next one's are filled, if there is room for both.
    __device__ __forceinline__ void send_activated() {
        const EpilogueArguments& e = arguments_.epilogue;
        const bool gated = bulk_.kind == Kind::gated;
        const int lane = ptx::thread_index_anew() % kWarpSize, units = gated ? kUnits / 2 : kUnits;
        const int height = C::kHeights == 1 ? 0 : 2 * left_ / units, unit = 2 * left_ - height * units;
        constexpr int kBoxBytes = kPatchRows * kBoxRowBytes;
        char* out = out_room<C>().of_warp() + (gated ? 0 : left_ % 2 * 2 * kBoxBytes);
        wait_until_read(lane, !gated);
#pragma unroll 1
        for (int half = 0; half < 2; ++half) {
            uint32_t pairs[kWordsOfUnit], ups[kWordsOfUnit];
#pragma unroll 1
            for (int factor = 0;; ++factor) {
                pick<kWordsOfUnit, 0, C::kHeights * kUnits>(words_, height * kUnits + factor * units + unit + half, 0,
                                                            ups);
                if ((factor == 0 ? e.preact : e.preact2).data != nullptr) {
                    put_in_box(ups, out + (1 + factor) * kBoxBytes, half, lane);
                }
                if (factor == 1) break;
#pragma unroll
                for (int i = 0; i < kWordsOfUnit; ++i) pairs[i] = ups[i];
                if (!gated) break;
            }
            finish(gated, pairs, ups);
            put_in_box(pairs, out, half, lane);
        }
        ptx::fence_proxy_async();
        __syncwarp();  // everybody's rows are there for the copy engine
        if (lane == 0) {
            const auto send = [&](Output output, const char* box) {
                ptx::tma_store(bulk_.outputs[static_cast<int>(output)], col_ + unit * kUnitColumns, row_ + height * 64,
                               batch_, box);
            };
            send(Output::out, out);
            if (e.preact.data != nullptr) send(Output::preact, out + kBoxBytes);
            if (gated && e.preact2.data != nullptr) send(Output::preact2, out + 2 * kBoxBytes);
            ptx::tma_commit();
        }
    }

    // Pre-activations become outputs, two words at a time: there are few registers beside two tiles.
    __device__ __forceinline__ void finish(bool gated, uint32_t (&pairs)[kWordsOfUnit],
                                           uint32_t (&ups)[kWordsOfUnit]) const {
        const EpilogueArguments& e = arguments_.epilogue;
#pragma unroll 1
        for (int turn = 0; turn < 2; ++turn) {
            float v[4] = {Two<T>{pairs[0]}.first(), Two<T>{pairs[0]}.second(), Two<T>{pairs[1]}.first(),
                          Two<T>{pairs[1]}.second()};
            if (gated) {
                float up[4] = {Two<T>{ups[0]}.first(), Two<T>{ups[0]}.second(), Two<T>{ups[1]}.first(),
                               Two<T>{ups[1]}.second()};
                gate<AnyEnding>(e, v, up);
            } else {
                activate<AnyEnding>(e, v);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                pairs[i] = pairs[2 + i];
                ups[i] = ups[2 + i];
                pairs[2 + i] = pair_from_f32<T>(v[2 * i], v[2 * i + 1]);
            }
        }
    }

    const GemmArguments& arguments_;
    const BulkArguments& bulk_;
    int row_, col_, batch_;
    int left_ = 0;  // portions
    uint32_t words_[C::kHeights][C::kN / 4];
};

}  // namespace halfops::linear
