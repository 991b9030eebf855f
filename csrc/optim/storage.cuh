// How a weight with its master is kept in memory: what an element needs beside it, and the way to fp32 and back.
#pragma once

#include "core/rng.h"
#include "math/master.h"
#include "math/rounding.h"
#include "optim/optim.h"

namespace halfops::optim {

template <class T, MasterFormat kMaster>
struct FormatOf {
    using Type = MasterNone<T>;
};
template <class T>
struct FormatOf<T, MasterFormat::split> {
    using Type = MasterSplit<T>;
};
template <class T>
struct FormatOf<T, MasterFormat::f32> {
    using Type = MasterF32<T>;
};

template <class T_, MasterFormat kMaster, Rounding kRounding>
struct Storage {
    using T = T_;
    using Format = typename FormatOf<T, kMaster>::Type;
    using Extra = typename Format::Extra;
    static constexpr bool kHasExtra = kMaster != MasterFormat::none;
    static constexpr bool kStochastic = kRounding == Rounding::stochastic && !kHasExtra && sizeof(T) == 2;

    static __device__ __forceinline__ float load(T weight, Extra extra) { return Format::load(to_f32(weight), extra); }

    // What w is stored as. `random` counts for stochastic rounding only.
    static __device__ __forceinline__ T weight(float w, uint32_t random) {
        if constexpr (kStochastic) return from_f32_stochastic<T>(w, random);
        return Format::weight(w);
    }
    static __device__ __forceinline__ Extra extra(float w, T weight) { return Format::extra(w, to_f32(weight)); }
};

}  // namespace halfops::optim
