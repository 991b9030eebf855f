// Accumulators become stored numbers: the steps of linear/epilogue.h on eights of a row, for a patch of sixteen rows.
//
// A patch belongs to a warp. Neighbouring lanes have neighbouring eights of a row, so their stores are whole lines.
// Sums of columns are taken from what was stored, written back to the patch's own shared memory, a lane a column or
// two: so they need no registers beside a warp's other accumulators.
#pragma once

#include "collective/warp.cuh"
#include "linear/epilogue.h"
#include "linear/policy.h"
#include "linear/sheet.cuh"

namespace halfops::linear {

// linear::Epilogue as a kernel has it.
struct EpilogueArguments {
    int64_t cols;  // of the output
    float alpha, beta;
    Activation activation;
    bool gated;
    Sheet out, out2, preact, preact2, grad_preact, grad_up, c;
    Sheet bias, bias2;  // one row
    // Workspace. Sums of columns of out and out2: a row of cols floats for each sixteen rows of a tile (fine), or for
    // each warp's part of one. Sums of squares: a number for each of the same.
    float *column_sums, *column_sums2;
    double* squares;
    bool fine;
};

// f(j) for the eight elements, four at a time: the arrays' halves change places in between. Activations are long, and
// eight of them side by side take registers that the accumulators of the rows to come are in.
template <class F, class... Eights>
__device__ __forceinline__ void by_fours(const F& f, Eights&... eights) {
    const auto exchange = [](float (&v)[kEight]) {
#pragma unroll
        for (int j = 0; j < kEight / 2; ++j) {
            const float first = v[j];
            v[j] = v[j + kEight / 2];
            v[j + kEight / 2] = first;
        }
    };
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int j = 0; j < kEight / 2; ++j) f(j);
        (exchange(eights), ...);
    }
}

__device__ __forceinline__ void gradient_of_eight(Activation activation, float (&v)[kEight], float (&z)[kEight]) {
    with_activation(activation, [&](auto a) {
        by_fours([&](int j) { v[j] = ActivationGradient<decltype(a)>{}(v[j], z[j]); }, v, z);
    });
}

// v is dh; becomes the gradient of the gate, and up that of itself.
__device__ __forceinline__ void gated_gradient_of_eight(Activation activation, float (&v)[kEight],
                                                        float (&gate)[kEight], float (&up)[kEight]) {
    with_activation(activation, [&](auto a) {
        using A = decltype(a);
        by_fours(
            [&](int j) {
                const float of_gate = GateGradient<A>{}(v[j], gate[j], up[j]);
                up[j] = UpGradient<A>{}(v[j], gate[j]);
                v[j] = of_gate;
            },
            v, gate, up);
    });
}

__device__ __forceinline__ void activate_eight(Activation activation, float (&z)[kEight]) {
    with_activation(activation, [&](auto a) { by_fours([&](int j) { z[j] = Activate<decltype(a)>{}(z[j]); }, z); });
}

__device__ __forceinline__ void gate_eight(Activation activation, float (&z)[kEight], float (&up)[kEight]) {
    with_activation(activation,
                    [&](auto a) { by_fours([&](int j) { z[j] = Gate<decltype(a)>{}(z[j], up[j]); }, z, up); });
}

// The patches of a warp in shared memory, sixteen rows of kColumns floats, in the order of their columns but for one
// thing: the two fours of an eight are exchanged where neighbouring lanes would meet in a bank (a row of eight eights
// is twice as wide as all banks; of four, two rows together are). The padding keeps rows of mma's fragments apart.
template <int kColumns>
struct Patch {
    static constexpr int kPitch = kColumns + kPatchPad, kFloats = kPatchRows * kPitch;
    float* data;

    static __device__ __forceinline__ int offset(int row, int column) {
        const int four = column / 4;
        const int exchanged = kColumns >= 64 ? four ^ (four / 8 % 2) : four ^ (row % 2);
        return row * kPitch + exchanged * 4 + column % 4;
    }
    __device__ __forceinline__ float& at(int row, int column) const { return data[offset(row, column)]; }

    __device__ __forceinline__ void read(int row, int eight, float (&v)[kEight]) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const auto four = *reinterpret_cast<const Vector16*>(&at(row, eight * kEight + half * 4));
#pragma unroll
            for (int j = 0; j < 4; ++j) v[half * 4 + j] = float_of(four.word[j]);
        }
    }
    __device__ __forceinline__ void write(int row, int eight, const float (&v)[kEight]) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            Vector16 four;
#pragma unroll
            for (int j = 0; j < 4; ++j) four.word[j] = bits_of(v[half * 4 + j]);
            *reinterpret_cast<Vector16*>(&at(row, eight * kEight + half * 4)) = four;
        }
    }
    // This lane's sum of column `column` over the patch.
    __device__ __forceinline__ float column_sum(int column) const {
        float sum = 0.0f;
#pragma unroll 4
        for (int row = 0; row < kPatchRows; ++row) sum += at(row, column);
        return sum;
    }
};

// A warp's patches, one below the other, from column `col` of the output on. The second patch is for the gradient of a
// gated activation alone.
template <int kColumns>
class Patches {
  public:
    static constexpr int kEights = kColumns / kEight, kOwn = kColumns / kWarpSize;

    __device__ __forceinline__ Patches(const EpilogueArguments& e, int64_t col, Patch<kColumns> patch,
                                       Patch<kColumns> second)
        : e_(e), patch_(patch), second_(second), col_(col) {
        clear();
    }

    // Rows `row` to `end` of the output, sixteen at most, whose accumulators are in the patch. By all lanes, which have
    // met since it was written.
    __device__ __forceinline__ void finish(int64_t row, int64_t end) {
        const int across = e_.gated ? kEights / 2 : kEights, eight = lane_index() % across;
        const int64_t col = col_ + eight * kEight;
        const int count = static_cast<int>(larger(0, smaller(kEight, e_.cols - col)));
#pragma unroll 1
        for (int i = lane_index() / across; i < kPatchRows; i += kWarpSize / across) {
            if (row + i < end && count > 0) {
                visit(i, eight, row + i, col, count);
            } else if (e_.column_sums != nullptr) {
                const float zeros[kEight] = {};
                patch_.write(i, eight, zeros);
                if (e_.column_sums2 != nullptr) second_.write(i, eight, zeros);
            }
        }
        if (e_.column_sums != nullptr) {
            __syncwarp();  // what was stored is in the patch again
            add_columns(patch_, columns_);
            if (e_.column_sums2 != nullptr) add_columns(second_, columns2_);
        }
    }

    // Hands the sums over to the workspace and begins new ones. By all lanes.
    __device__ __forceinline__ void leave_sums(int64_t slot_of_columns, int64_t slot_of_squares) {
        if (e_.column_sums != nullptr) leave_columns(e_.column_sums, slot_of_columns, columns_);
        if (e_.column_sums2 != nullptr) leave_columns(e_.column_sums2, slot_of_columns, columns2_);
        if (e_.squares != nullptr) {
            const double sum = warp_sum(squares_);
            if (lane_index() == 0) e_.squares[slot_of_squares] = sum;
        }
        clear();
    }

  private:
    __device__ __forceinline__ void visit(int i, int eight, int64_t row, int64_t col, int count) {
        float v[kEight], v2[kEight];
        patch_.read(i, e_.gated ? 2 * eight : eight, v);
#pragma unroll
        for (int j = 0; j < kEight; ++j) v[j] = Scale{e_.alpha}(v[j]);
        add_bias(e_.bias, col, count, v);
        if (e_.grad_preact.data != nullptr) {
            float z[kEight];
            load_eight(e_.grad_preact, row, col, count, z);
            if (e_.grad_up.data != nullptr) {
                load_eight(e_.grad_up, row, col, count, v2);
                gated_gradient_of_eight(e_.activation, v, z, v2);
                store_eight(e_.out2, row, col, count, v2);
                if (e_.column_sums2 != nullptr) second_.write(i, eight, v2);
            } else {
                gradient_of_eight(e_.activation, v, z);
            }
        } else if (e_.gated) {
            patch_.read(i, 2 * eight + 1, v2);
            add_bias(e_.bias2, col, count, v2);
            keep(e_.preact, row, col, count, v);
            keep(e_.preact2, row, col, count, v2);
            gate_eight(e_.activation, v, v2);
        } else if (e_.activation != Activation::none) {
            keep(e_.preact, row, col, count, v);
            activate_eight(e_.activation, v);
        } else if (e_.preact.data != nullptr) {
#pragma unroll
            for (int j = 0; j < kEight; ++j) v2[j] = v[j];
            store_eight(e_.preact, row, col, count, v2);
        }
        if (e_.c.data != nullptr) {
            load_eight(e_.c, row, col, count, v2);
#pragma unroll
            for (int j = 0; j < kEight; ++j) v[j] = AddScaled{e_.beta}(v[j], v2[j]);
        }
        store_eight(e_.out, row, col, count, v);
        if (e_.column_sums != nullptr) patch_.write(i, eight, v);
        if (e_.squares != nullptr) {
#pragma unroll
            for (int j = 0; j < kEight; ++j) {
                if (j < count) squares_ += static_cast<double>(v[j]) * static_cast<double>(v[j]);
            }
        }
    }

    __device__ __forceinline__ static void add_bias(const Sheet& bias, int64_t col, int count, float (&v)[kEight]) {
        if (bias.data == nullptr) return;
        float b[kEight];
        load_eight(bias, 0, col, count, b);
#pragma unroll
        for (int j = 0; j < kEight; ++j) v[j] = AddBias{}(v[j], b[j]);
    }

    // Rounded to what a pre-activation is saved in, saved or not.
    __device__ __forceinline__ void keep(const Sheet& sheet, int64_t row, int64_t col, int count,
                                         float (&z)[kEight]) const {
        if (sheet.data != nullptr) {
            store_eight(sheet, row, col, count, z);
        } else {
            round_eight(e_.out.dtype, z);
        }
    }

    __device__ __forceinline__ void add_columns(const Patch<kColumns>& patch, float (&sums)[kOwn]) const {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) sums[j] += patch.column_sum(lane_index() + j * kWarpSize);
    }
    __device__ __forceinline__ void leave_columns(float* sums, int64_t slot, const float (&own)[kOwn]) const {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
            const int64_t col = col_ + lane_index() + j * kWarpSize;
            if (col < e_.cols) sums[slot * e_.cols + col] = own[j];
        }
    }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) columns_[j] = columns2_[j] = 0.0f;
        squares_ = 0.0;
    }

    const EpilogueArguments& e_;
    Patch<kColumns> patch_, second_;
    int64_t col_;
    float columns_[kOwn], columns2_[kOwn];
    double squares_;
};

}  // namespace halfops::linear
