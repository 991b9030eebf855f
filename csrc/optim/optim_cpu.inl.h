// The optimizer engine, compiled once for each CPU variant.
//
// Formats x rules are sums here, not products: a block is loaded by its format into a float buffer, updated there by
// its rule (the moments, fp32, in place), and stored by its format.
#pragma once

#include "core/squares.inl.h"
#include "math/lerp.h"
#include "math/update/all.h"
#include "optim/blocks.inl.h"
#include "optim/optim_cpu.h"

namespace halfops {
namespace HALFOPS_VARIANT {

using optim::Job;
using optim::MasterFormat;
using optim::Norms;
using optim::ParamTensor;
using optim::Rounding;

template <class T>
static void load_weight(const ParamTensor& t, int64_t at, int64_t n, float* w) {
    const T* weight = static_cast<const T*>(t.weight) + at;
    switch (t.master_format) {
        case MasterFormat::split:
            return load_block<MasterSplit<T>>(weight, static_cast<const int16_t*>(t.master) + at, n, w);
        case MasterFormat::f32:
            return widen(static_cast<const float*>(t.master) + at, w, n);
        case MasterFormat::none:
            return widen(weight, w, n);
    }
}

template <class T>
static void store_weight(const Job& job, int64_t at, int64_t n, const float* w) {
    const ParamTensor& t = job.tensor;
    T* weight = static_cast<T*>(t.weight) + at;
    switch (t.master_format) {
        case MasterFormat::split:
            return store_block<MasterSplit<T>>(w, n, weight, static_cast<int16_t*>(t.master) + at);
        case MasterFormat::f32:
            narrow(w, weight, n);
            return narrow(w, static_cast<float*>(t.master) + at, n);
        case MasterFormat::none:
            if (job.rounding == Rounding::nearest) return narrow(w, weight, n);
            return narrow_stochastic(w, weight, n, job.seed, job.step, at, t.key);
    }
}

static void load(const ParamTensor& t, int64_t at, int64_t n, float* w, float* g) {
    switch (t.dtype) {
        case DType::f16:
            widen(static_cast<const f16*>(t.grad) + at, g, n);
            return load_weight<f16>(t, at, n, w);
        case DType::bf16:
            widen(static_cast<const bf16*>(t.grad) + at, g, n);
            return load_weight<bf16>(t, at, n, w);
        default:
            widen(static_cast<const float*>(t.grad) + at, g, n);
            widen(static_cast<const float*>(t.weight) + at, w, n);
    }
}

static void store(const Job& job, int64_t at, int64_t n, const float* w) {
    switch (job.tensor.dtype) {
        case DType::f16:
            return store_weight<f16>(job, at, n, w);
        case DType::bf16:
            return store_weight<bf16>(job, at, n, w);
        default:
            narrow(w, static_cast<float*>(job.tensor.weight) + at, n);
    }
}

// w is room for a block: it becomes what weight and master, as they are stored, stand for.
static void average(const Job& job, int64_t at, int64_t n, float* w) {
    const ParamTensor& t = job.tensor;
    switch (t.dtype) {
        case DType::f16:
            load_weight<f16>(t, at, n, w);
            break;
        case DType::bf16:
            load_weight<bf16>(t, at, n, w);
            break;
        default:
            widen(static_cast<const float*>(t.weight) + at, w, n);
    }
    float* ema = t.ema + at;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) ema[i] = lerp(ema[i], w[i], job.ema_weight);
}

template <class Rule>
inline constexpr int kArray = Rule::kStates > 0 ? Rule::kStates : 1;

template <class Rule>
static void update_block(const Job& job, int64_t at, int64_t n, float* w, const float* g) {
    const auto scalars = job.scalars.as<typename Rule::Scalars>();
    float* moments[kArray<Rule>] = {};
    for (int k = 0; k < Rule::kStates; ++k) moments[k] = job.tensor.states[k] + at;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
        float state[kArray<Rule>];
        for (int k = 0; k < Rule::kStates; ++k) state[k] = moments[k][i];
        w[i] = Rule::apply(scalars, g[i], w[i], state);
        for (int k = 0; k < Rule::kStates; ++k) moments[k][i] = state[k];
    }
}

template <class Rule>
static void measure_block(const Job& job, int64_t at, int64_t n, const float* w, const float* g, double* weight_lanes,
                          double* direction_lanes) {
    if constexpr (update::kNeedsNorms<Rule>) {
        const auto scalars = job.scalars.as<typename Rule::Scalars>();
        float* moments[kArray<Rule>] = {};
        for (int k = 0; k < Rule::kStates; ++k) moments[k] = job.tensor.states[k] + at;
        float direction[kBlock];
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) {
            float state[kArray<Rule>];
            for (int k = 0; k < Rule::kStates; ++k) state[k] = moments[k][i];
            direction[i] = Rule::measure(scalars, g[i], w[i], state);
            for (int k = 0; k < Rule::kStates; ++k) moments[k][i] = state[k];
        }
        add_squares(w, n, weight_lanes);
        add_squares(direction, n, direction_lanes);
    }
}

static_assert(kChunk % kBlock == 0 && kBlock % kLanes == 0, "a block is of one chunk and begins with its first lane");

using Update = void (*)(const Job&, int64_t, int64_t, float*, const float*);
using Measure = void (*)(const Job&, int64_t, int64_t, const float*, const float*, double*, double*);

struct Functions {
    Update update;
    Measure measure;
};

template <class... Rules>
static Functions functions_of(int rule, update::RuleList<Rules...>) {
    static constexpr Functions all[] = {{update_block<Rules>, measure_block<Rules>}...};
    return all[rule];
}

static void update(const Job& job, int64_t begin, int64_t end) {
    const Update apply = functions_of(job.rule, update::AllRules{}).update;
    float w[kBlock], g[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t n = smaller(kBlock, end - at);
        load(job.tensor, at, n, w, g);
        apply(job, at, n, w, g);
        store(job, at, n, w);
        if (job.tensor.ema != nullptr) average(job, at, n, w);
        if (job.zero_grad) zero_gradient(job.tensor, at, at + n);
    }
}

static void measure(const Job& job, int64_t begin, int64_t end, Norms* out) {
    const Measure measure = functions_of(job.rule, update::AllRules{}).measure;
    float w[kBlock], g[kBlock];
    for (; begin < end; begin += kChunk) {
        const int64_t chunk_end = smaller(end, begin + kChunk);
        double weight_lanes[kLanes] = {}, direction_lanes[kLanes] = {};
        for (int64_t at = begin; at < chunk_end; at += kBlock) {
            const int64_t n = smaller(kBlock, chunk_end - at);
            load(job.tensor, at, n, w, g);
            measure(job, at, n, w, g, weight_lanes, direction_lanes);
        }
        *out++ = {add_lanes(weight_lanes, chunk_end - begin), add_lanes(direction_lanes, chunk_end - begin)};
    }
}

template <class T>
static void split(const float* master, T* weight, int16_t* remainder, int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += kBlock) {
        store_block<MasterSplit<T>>(master + at, smaller(kBlock, end - at), weight + at, remainder + at);
    }
}

static void split(const float* master, DType dtype, void* weight, int16_t* remainder, int64_t begin, int64_t end) {
    if (dtype == DType::f16) return split(master, static_cast<f16*>(weight), remainder, begin, end);
    split(master, static_cast<bf16*>(weight), remainder, begin, end);
}

static void join(DType dtype, const void* weight, const int16_t* remainder, float* master, int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    if (dtype == DType::f16) {
        load_block<MasterSplit<f16>>(static_cast<const f16*>(weight) + begin, remainder + begin, n, master + begin);
    } else {
        load_block<MasterSplit<bf16>>(static_cast<const bf16*>(weight) + begin, remainder + begin, n, master + begin);
    }
}

template <class T>
static void cast_block(const optim::cpu::Cast& cast, const float* values, void* target, int64_t at, int64_t n) {
    T* out = static_cast<T*>(target) + at;
    if (cast.rounding == Rounding::nearest) return narrow(values, out, n);
    narrow_stochastic(values, out, n, cast.seed, cast.step, at, cast.key);
}

static void cast(const optim::cpu::Cast& cast, const void* source, void* target, int64_t begin, int64_t end) {
    float values[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t n = smaller(kBlock, end - at);
        if (cast.from == DType::f16) {
            widen(static_cast<const f16*>(source) + at, values, n);
        } else if (cast.from == DType::bf16) {
            widen(static_cast<const bf16*>(source) + at, values, n);
        } else {
            widen(static_cast<const float*>(source) + at, values, n);
        }
        if (cast.to == DType::f16) {
            cast_block<f16>(cast, values, target, at, n);
        } else if (cast.to == DType::bf16) {
            cast_block<bf16>(cast, values, target, at, n);
        } else {
            narrow(values, static_cast<float*>(target) + at, n);
        }
    }
}

}  // namespace HALFOPS_VARIANT
}  // namespace halfops
