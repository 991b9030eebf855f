// The ends of the engine: a block of weights, with or without master, to fp32 and back.
#pragma once

#include "core/convert.inl.h"
#include "core/random.inl.h"
#include "math/master.h"
#include "math/rounding.h"

namespace halfops {
namespace HALFOPS_VARIANT {

// Elements that are worked on at once: the float buffers stay in L1, the calls between them cost nothing.
constexpr int64_t kBlock = 512;
static_assert(kBlock % kRandomGroup == 0, "a block's buffer must have room for whole groups of random words");

template <class Format, class T>
static void load_block(const T* weight, const typename Format::Extra* extra, int64_t n, float* w) {
    widen(weight, w, n);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) w[i] = Format::load(w[i], extra[i]);
}

template <class Format>
static void narrow_to_shown(const float* w, f16* weight, int64_t n) {
    narrow(w, weight, n);  // what MasterSplit<f16>::weight and MasterF32<f16>::weight say, with F16C
}

template <class Format>
static void narrow_to_shown(const float* w, bf16* weight, int64_t n) {
    for (int64_t i = 0; i < n; ++i) weight[i] = Format::weight(w[i]);
}

template <class Format, class T>
static void store_block(const float* w, int64_t n, T* weight, typename Format::Extra* extra) {
    float shown[kBlock];
    narrow_to_shown<Format>(w, weight, n);
    widen(weight, shown, n);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) extra[i] = Format::extra(w[i], shown[i]);
}

// at: the element of the tensor that the block begins with
template <class T>
static void narrow_stochastic(const float* w, T* weight, int64_t n, uint64_t seed, uint32_t step, int64_t at,
                              uint32_t key) {
    uint32_t bits[kBlock];
    random_row(seed, step, static_cast<uint64_t>(at) / 4, key, n, bits);
    for (int64_t i = 0; i < n; ++i) weight[i] = from_f32_stochastic<T>(w[i], bits[i]);
}

}  // namespace HALFOPS_VARIANT
}  // namespace halfops
