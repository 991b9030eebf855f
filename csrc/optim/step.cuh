// The update of every tensor of a set in one launch: what is read is read once, what is written is written once.
//
// A warp takes chunks of 4096 elements, whichever tensor they belong to, and a thread eight neighbours at a time:
// weight, gradient, master and moments are independent 16-byte loads, all in flight before the first is used. No shared
// memory, no barrier: thousands of tensors of a few elements keep the card as busy as one large one.
#pragma once

#include "collective/lanes.cuh"
#include "collective/pair_sums.cuh"
#include "math/lerp.h"
#include "optim/rows.cuh"
#include "optim/storage.cuh"

namespace halfops::optim {

inline constexpr unsigned kStepThreads = 128;
// Blocks that a multiprocessor's registers must suffice for: more of them are more bytes in flight. From sm_100 on the
// compiler wants a few registers more for the same code, and would spill with five.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
inline constexpr unsigned kStepBlocks = 4;
#else
inline constexpr unsigned kStepBlocks = 5;
#endif
inline constexpr unsigned kMeasureBlocks = 4;

struct SetArguments {
    const ParamRow* rows;
    const void* prepared;  // Prepared<Rule>, a row each
    ChunkTable chunks;
    const int64_t* gradients;
    const int32_t* open;
    Pair* norms;  // of chunks, for rules that need them
    uint64_t seed;
    float ema_weight;
    bool zero_grad;
};

template <class Rule>
inline constexpr int kStateArray = Rule::kStates > 0 ? Rule::kStates : 1;

// One chunk of one tensor: where its arrays begin.
template <class Rule, class S>
struct Place {
    using T = typename S::T;
    using Extra = typename S::Extra;

    T* weight;
    T* grad;
    Extra* extra;
    float* states[kStateArray<Rule>];
    float* ema;
    int64_t begin;  // the chunk's first element, counted in its tensor
    uint32_t key;

    __device__ __forceinline__ Place(const ParamRow& row, int64_t gradient, int64_t chunk)
        : weight(at<T>(row.weight, chunk)),
          grad(at<T>(gradient, chunk)),
          extra(S::kHasExtra ? at<Extra>(row.master, chunk) : nullptr),
          ema(row.ema != 0 ? at<float>(row.ema, chunk) : nullptr),
          begin(chunk * kChunk),
          key(static_cast<uint32_t>(row.key)) {
#pragma unroll
        for (int k = 0; k < kStateArray<Rule>; ++k) states[k] = at<float>(row.states[k], chunk);
    }

  private:
    template <class Element>
    static __device__ __forceinline__ Element* at(int64_t address, int64_t chunk) {
        return reinterpret_cast<Element*>(address) + chunk * kChunk;
    }
};

// Eight neighbours of every array, in registers, between load() and store().
template <class Rule, class S>
struct Loaded {
    using T = typename S::T;
    using Extra = typename S::Extra;
    // Where nothing is stored beside the weight, a stand-in that is never loaded.
    using StoredExtra = std::conditional_t<S::kHasExtra, Extra, float>;

    Eight<T> weight, grad;
    Eight<StoredExtra> extra;
    Eight<float> states[kStateArray<Rule>];

    __device__ __forceinline__ void load(const Place<Rule, S>& place, int from) {
        weight = Eight<T>::load(place.weight + from);
        if constexpr (S::kHasExtra) extra = Eight<StoredExtra>::load(place.extra + from);
#pragma unroll
        for (int k = 0; k < Rule::kStates; ++k) states[k] = Eight<float>::load(place.states[k] + from);
        const T* gradient = place.grad + from;
        if (is_aligned(gradient)) {
            grad = Eight<T>::load(gradient);
        } else {  // a view into a bucket: its own alignment
            grad = {};
#pragma unroll
            for (int j = 0; j < kEight; ++j) grad.set_bits(j, bits_of_element(gradient[j]));
        }
    }

    __device__ __forceinline__ float w(int j) const {
        Extra beside{};
        if constexpr (S::kHasExtra) beside = element_of<Extra>(extra.bits(j));
        return S::load(element_of<T>(weight.bits(j)), beside);
    }
    __device__ __forceinline__ float g(int j) const { return to_f32(element_of<T>(grad.bits(j))); }
    __device__ __forceinline__ void get_states(int j, float (&state)[kStateArray<Rule>]) const {
#pragma unroll
        for (int k = 0; k < Rule::kStates; ++k) state[k] = float_of(states[k].bits(j));
    }
    __device__ __forceinline__ void set_states(int j, const float (&state)[kStateArray<Rule>]) {
#pragma unroll
        for (int k = 0; k < Rule::kStates; ++k) states[k].set_bits(j, bits_of(state[k]));
    }
    __device__ __forceinline__ void store_states(const Place<Rule, S>& place, int from) const {
#pragma unroll
        for (int k = 0; k < Rule::kStates; ++k) states[k].store(place.states[k] + from);
    }
};

// One element of every array, for the ends of tensors and for arrays without a common alignment.
template <class Rule, class S>
struct Single {
    float w, g;
    float state[kStateArray<Rule>] = {};

    __device__ __forceinline__ Single(const Place<Rule, S>& place, int at) : g(to_f32(place.grad[at])) {
        typename S::Extra beside{};
        if constexpr (S::kHasExtra) beside = place.extra[at];
        w = S::load(place.weight[at], beside);
#pragma unroll
        for (int k = 0; k < Rule::kStates; ++k) state[k] = place.states[k][at];
    }
    __device__ __forceinline__ void store_states(const Place<Rule, S>& place, int at) const {
#pragma unroll
        for (int k = 0; k < Rule::kStates; ++k) place.states[k][at] = state[k];
    }
};

template <class Rule, class S>
__device__ __forceinline__ void update_eight(const Place<Rule, S>& place, const Prepared<Rule>& prepared,
                                             const SetArguments& set, int from) {
    using T = typename S::T;
    // A copy: for all the compiler knows, what is stored below could change the scalars between two elements.
    const typename Rule::Scalars scalars = prepared.scalars;
    Loaded<Rule, S> now;
    now.load(place, from);
    uint32_t random[kEight] = {};
    if constexpr (S::kStochastic) {  // the host has seen to it that eights begin with a quad
        const auto quad = static_cast<uint64_t>(place.begin + from) / 4;
#pragma unroll
        for (int q = 0; q < 2; ++q) {
            const Philox words = random_quad(set.seed, prepared.step, quad + q, place.key);
            random[4 * q] = words.x0;
            random[4 * q + 1] = words.x1;
            random[4 * q + 2] = words.x2;
            random[4 * q + 3] = words.x3;
        }
    }
#pragma unroll
    for (int j = 0; j < kEight; ++j) {
        float state[kStateArray<Rule>];
        now.get_states(j, state);
        const float w = Rule::apply(scalars, now.g(j), now.w(j), state);
        now.set_states(j, state);
        const T weight = S::weight(w, random[j]);
        now.weight.set_bits(j, bits_of_element(weight));
        if constexpr (S::kHasExtra) now.extra.set_bits(j, bits_of_element(S::extra(w, weight)));
    }
    now.weight.store(place.weight + from);
    if constexpr (S::kHasExtra) now.extra.store(place.extra + from);
    if constexpr (!update::kNeedsNorms<Rule>) now.store_states(place, from);  // else the measuring pass has moved them
    if (place.ema != nullptr) {
        Eight<float> average = Eight<float>::load(place.ema + from);
#pragma unroll
        for (int j = 0; j < kEight; ++j) {
            average.set_bits(j, bits_of(lerp(float_of(average.bits(j)), now.w(j), set.ema_weight)));
        }
        average.store(place.ema + from);
    }
    if (set.zero_grad) {
        T* gradient = place.grad + from;
        if (is_aligned(gradient)) {
            Eight<T>{}.store(gradient);
        } else {
#pragma unroll
            for (int j = 0; j < kEight; ++j) gradient[j] = T{};
        }
    }
}

template <class Rule, class S>
__device__ __forceinline__ void update_one(const Place<Rule, S>& place, const Prepared<Rule>& prepared,
                                           const SetArguments& set, int at) {
    using T = typename S::T;
    Single<Rule, S> now(place, at);
    uint32_t random = 0;
    if constexpr (S::kStochastic) {
        random = random_bits(set.seed, prepared.step, static_cast<uint64_t>(place.begin + at), place.key);
    }
    const float w = Rule::apply(prepared.scalars, now.g, now.w, now.state);
    const T weight = S::weight(w, random);
    place.weight[at] = weight;
    if constexpr (S::kHasExtra) place.extra[at] = S::extra(w, weight);
    if constexpr (!update::kNeedsNorms<Rule>) now.store_states(place, at);
    if (place.ema != nullptr) place.ema[at] = lerp(place.ema[at], Single<Rule, S>(place, at).w, set.ema_weight);
    if (set.zero_grad) place.grad[at] = T{};
}

// visit(place, prepared, eights, are_eights_aligned, chunk's number in the set) for every chunk of this warp.
template <class Rule, class S, class Visit>
__device__ __forceinline__ void for_each_place(const SetArguments& set, const Visit& visit) {
    for_each_chunk(set.chunks, [&](int64_t r, int64_t chunk, int64_t c) {
        const ParamRow& row = set.rows[r];
        const Eights eights(chunk, row.numel, row.head == kNoHead ? 0 : static_cast<int>(row.head));
        visit(Place<Rule, S>(row, set.gradients[row.index], chunk), static_cast<const Prepared<Rule>*>(set.prepared)[r],
              eights, row.head != kNoHead, c);
    });
}

template <class Rule, class S>
__global__ void __launch_bounds__(kStepThreads, kStepBlocks) step_kernel(SetArguments set) {
    if (*set.open == 0) {
        if (!set.zero_grad) return;
        for_each_place<Rule, S>(
            set, [](const Place<Rule, S>& place, const Prepared<Rule>&, const Eights& eights, bool, int64_t) {
                for (int at = lane_index(); at < eights.length; at += kWarpSize) place.grad[at] = typename S::T{};
            });
        return;
    }
    for_each_place<Rule, S>(set, [&](const Place<Rule, S>& place, const Prepared<Rule>& prepared, const Eights& eights,
                                     bool aligned, int64_t) {
        for (int eight = lane_index(); eights.at(eight) < eights.length; eight += kWarpSize) {
            if (aligned && eights.are_whole(eight, eight)) {
                update_eight<Rule, S>(place, prepared, set, eights.at(eight));
            } else {
#pragma unroll 1
                for (int j = 0; j < kEight; ++j) {
                    const int at = eights.at(eight) + j;
                    if (eights.has(at)) update_one<Rule, S>(place, prepared, set, at);
                }
            }
        }
    });
}

// The pass before the update of a rule that needs norms: it moves the states, and adds the squares of weight and
// direction in the order of core/chunks.h.
template <class Rule, class S>
__global__ void __launch_bounds__(kStepThreads, kMeasureBlocks) measure_kernel(SetArguments set) {
    if (*set.open == 0) return;
    for_each_place<Rule, S>(set, [&](const Place<Rule, S>& place, const Prepared<Rule>& prepared, const Eights& eights,
                                     bool aligned, int64_t c) {
        double weights[kPerThread] = {}, directions[kPerThread] = {};
        const auto add = [&](int slot, float w, float direction) {
            const double a = w, b = direction;
            weights[slot] = fma(a, a, weights[slot]);
            directions[slot] = fma(b, b, directions[slot]);
        };
        for (int eight = lane_index(); eights.at(eight) < eights.length; eight += kWarpSize) {
            if (aligned && eights.are_whole(eight, eight)) {
                Loaded<Rule, S> now;
                now.load(place, eights.at(eight));
#pragma unroll
                for (int j = 0; j < kEight; ++j) {
                    float state[kStateArray<Rule>];
                    now.get_states(j, state);
                    const float w = now.w(j);
                    add(j, w, Rule::measure(prepared.scalars, now.g(j), w, state));
                    now.set_states(j, state);
                }
                now.store_states(place, eights.at(eight));
            } else {
#pragma unroll
                for (int j = 0; j < kEight; ++j) {
                    const int at = eights.at(eight) + j;
                    if (!eights.has(at)) continue;
                    Single<Rule, S> now(place, at);
                    add(j, now.w, Rule::measure(prepared.scalars, now.g, now.w, now.state));
                    now.store_states(place, at);
                }
            }
        }
        const Pair sums = {sum_of_lanes(weights, eights.missing), sum_of_lanes(directions, eights.missing)};
        if (lane_index() == 0) set.norms[c] = sums;
    });
}

}  // namespace halfops::optim
