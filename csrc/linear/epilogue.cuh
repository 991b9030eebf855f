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
    bool bare;  // stores accumulators as they are, and does nothing else
};

// f(j) for the first kAtOnce of the elements, until each has been there: the arrays turn in between. All elements side
// by side take registers that the accumulators of the rows to come are in.
template <int kAtOnce, int kCount, class F, class... Arrays>
__device__ __forceinline__ void by_turns(const F& f, Arrays (&... arrays)[kCount]) {
    const auto turn = [](float (&v)[kCount]) {
        float first[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) first[j] = v[j];
#pragma unroll
        for (int j = 0; j + kAtOnce < kCount; ++j) v[j] = v[j + kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) v[kCount - kAtOnce + j] = first[j];
    };
#pragma unroll 1
    for (int i = 0; i < kCount / kAtOnce; ++i) {
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) f(j);
        if constexpr (kAtOnce < kCount) (turn(arrays), ...);
    }
}

// Which of an epilogue's outputs a sheet is.
enum class Output : int { out, out2, preact, preact2 };
inline constexpr int kOutputs = 4;

// What an epilogue does, asked at run time. A kernel that is compiled for one kind of epilogue answers by constants, in
// a class with the same functions.
struct AnyEnding {
    static constexpr int kAtOnce = 4;  // of the elements of a place that an activation is taken of
    static __device__ __forceinline__ bool is_gradient(const EpilogueArguments& e) {
        return e.grad_preact.data != nullptr;
    }
    static __device__ __forceinline__ bool is_gated_gradient(const EpilogueArguments& e) {
        return e.grad_up.data != nullptr;
    }
    static __device__ __forceinline__ bool is_gated(const EpilogueArguments& e) { return e.gated; }
    static __device__ __forceinline__ bool is_activated(const EpilogueArguments& e) {
        return e.activation != Activation::none;
    }
    static __device__ __forceinline__ bool adds(const EpilogueArguments& e) { return e.c.data != nullptr; }
    template <class F>
    static __device__ __forceinline__ void with_activation(const EpilogueArguments& e, const F& f) {
        halfops::with_activation(e.activation, f);
    }
};

// A pre-activation, rounded to what it is saved in, saved or not.
template <int kCount, class Place>
__device__ __forceinline__ void keep(const EpilogueArguments& e, const Sheet& sheet, Output output, Place& place,
                                     float (&z)[kCount]) {
    if (sheet.data != nullptr) {
        place.store(sheet, output, z);
    } else {
        round_all(e.out.dtype, z);
    }
}

// What comes behind rounded pre-activations.
template <class Ending, int kCount>
__device__ __forceinline__ void activate(const EpilogueArguments& e, float (&z)[kCount]) {
    Ending::with_activation(
        e, [&](auto a) { by_turns<Ending::kAtOnce>([&](int j) { z[j] = Activate<decltype(a)>{}(z[j]); }, z); });
}
template <class Ending, int kCount>
__device__ __forceinline__ void gate(const EpilogueArguments& e, float (&z)[kCount], float (&up)[kCount]) {
    Ending::with_activation(
        e, [&](auto a) { by_turns<Ending::kAtOnce>([&](int j) { z[j] = Gate<decltype(a)>{}(z[j], up[j]); }, z, up); });
}

// Accumulators of a place of the output become what is stored; v2 comes as the second factor's accumulators of a gated
// problem. A place loads its part of a sheet, or of a row that is the same for all rows, and stores it, with what was
// stored left in the array: sums over stored numbers are the place's own affair, taken as it stores, so that no array
// is kept for later.
template <class Ending, int kCount, class Place>
__device__ __forceinline__ void finish_values(const EpilogueArguments& e, Place& place, float (&v)[kCount],
                                              float (&v2)[kCount]) {
    const auto add_bias = [&](const Sheet& bias, float (&to)[kCount]) {
        if (bias.data == nullptr) return;
        float b[kCount];
        place.load_row(bias, b);
#pragma unroll
        for (int j = 0; j < kCount; ++j) to[j] = AddBias{}(to[j], b[j]);
    };
#pragma unroll
    for (int j = 0; j < kCount; ++j) v[j] = Scale{e.alpha}(v[j]);
    if (Ending::is_gradient(e)) {
        add_bias(e.bias, v);
        float z[kCount];
        place.load(e.grad_preact, z);
        if (Ending::is_gated_gradient(e)) {
            place.load(e.grad_up, v2);
            Ending::with_activation(e, [&](auto a) {
                using A = decltype(a);
                by_turns<Ending::kAtOnce>(
                    [&](int j) {
                        const float of_gate = GateGradient<A>{}(v[j], z[j], v2[j]);
                        v2[j] = UpGradient<A>{}(v[j], z[j]);
                        v[j] = of_gate;
                    },
                    v, z, v2);
            });
            place.store(e.out2, Output::out2, v2);
        } else {
            Ending::with_activation(e, [&](auto a) {
                by_turns<Ending::kAtOnce>([&](int j) { v[j] = ActivationGradient<decltype(a)>{}(v[j], z[j]); }, v, z);
            });
        }
    } else if (Ending::is_gated(e)) {
        add_bias(e.bias, v);
        add_bias(e.bias2, v2);
        keep(e, e.preact, Output::preact, place, v);
        keep(e, e.preact2, Output::preact2, place, v2);
        gate<Ending>(e, v, v2);
    } else if (Ending::is_activated(e)) {
        add_bias(e.bias, v);
        keep(e, e.preact, Output::preact, place, v);
        activate<Ending>(e, v);
    } else {
        add_bias(e.bias, v);
        if (e.preact.data != nullptr) {
            float z[kCount];
#pragma unroll
            for (int j = 0; j < kCount; ++j) z[j] = v[j];
            place.store(e.preact, Output::preact, z);
        }
    }
    if (Ending::adds(e)) {
        float c[kCount];
        place.load_added(e.c, c);
#pragma unroll
        for (int j = 0; j < kCount; ++j) v[j] = AddScaled{e.beta}(v[j], c[j]);
    }
    place.store(e.out, Output::out, v);
}

template <int kCount>
__device__ __forceinline__ double squares_of(const float (&v)[kCount], int count) {
    double sum = 0.0;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
        if (j < count) sum += static_cast<double>(v[j]) * static_cast<double>(v[j]);
    }
    return sum;
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

    __device__ __forceinline__ Patches(const EpilogueArguments& e, int lane, int64_t col, Patch<kColumns> patch,
                                       Patch<kColumns> second)
        : e_(e), patch_(patch), second_(second), lane_(lane), col_(col) {
        clear();
    }

    // Rows `row` to `end` of the output, sixteen at most, whose accumulators are in the patch. By all lanes, which have
    // met since it was written.
    __device__ __forceinline__ void finish(int64_t row, int64_t end) {
        const int across = e_.gated ? kEights / 2 : kEights, eight = lane_ % across;
        const int64_t col = col_ + eight * kEight;
        const int count = static_cast<int>(larger(0, smaller(kEight, e_.cols - col)));
#pragma unroll 1
        for (int i = lane_ / across; i < kPatchRows; i += kWarpSize / across) {
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
            if (lane_ == 0) e_.squares[slot_of_squares] = sum;
        }
        clear();
    }

  private:
    // An eight of row i of the patches, `count` of it in the output.
    struct Place {
        Patches& of;
        int i, eight;
        int64_t row, col;
        int count;

        __device__ __forceinline__ void load(const Sheet& sheet, float (&v)[kEight]) const {
            load_eight(sheet, row, col, count, v);
        }
        __device__ __forceinline__ void load_added(const Sheet& sheet, float (&v)[kEight]) const { load(sheet, v); }
        __device__ __forceinline__ void load_row(const Sheet& sheet, float (&v)[kEight]) const {
            load_eight(sheet, 0, col, count, v);
        }
        __device__ __forceinline__ void store(const Sheet& sheet, Output output, float (&v)[kEight]) const {
            store_eight(sheet, row, col, count, v);
            if (output == Output::out2 && of.e_.column_sums2 != nullptr) of.second_.write(i, eight, v);
            if (output != Output::out) return;
            if (of.e_.column_sums != nullptr) of.patch_.write(i, eight, v);
            if (of.e_.squares != nullptr) of.squares_ += squares_of(v, count);
        }
    };

    __device__ __forceinline__ void visit(int i, int eight, int64_t row, int64_t col, int count) {
        float v[kEight], v2[kEight];
        if (e_.bare) {  // code that runs once a launch comes from memory: the less of it the better
            patch_.read(i, eight, v);
            return store_eight(e_.out, row, col, count, v);
        }
        patch_.read(i, e_.gated ? 2 * eight : eight, v);
        if (e_.gated) patch_.read(i, 2 * eight + 1, v2);
        Place place{*this, i, eight, row, col, count};
        finish_values<AnyEnding>(e_, place, v, v2);
    }

    __device__ __forceinline__ void add_columns(const Patch<kColumns>& patch, float (&sums)[kOwn]) const {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) sums[j] += patch.column_sum(lane_ + j * kWarpSize);
    }
    __device__ __forceinline__ void leave_columns(float* sums, int64_t slot, const float (&own)[kOwn]) const {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
            const int64_t col = col_ + lane_ + j * kWarpSize;
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
    int lane_;
    int64_t col_;
    float columns_[kOwn], columns2_[kOwn];
    double squares_;
};

}  // namespace halfops::linear
