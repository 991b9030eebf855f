#include "optim/optim_cpu.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "core/cpu_variant.h"
#include "core/shape.h"
#include "optim/gate.h"

namespace halfops::optim::cpu {
namespace {

const CpuEngine& engine() {
#if defined(__x86_64__)
    return pick(&kPortable, &kAvx2, &kAvx512);
#else
    return kPortable;
#endif
}

template <class Rule>
AnyScalars prepare(const double* hyper, int64_t step, double grad_factor) {
    static_assert(sizeof(typename Rule::Hyper) == update::kHypers<Rule> * sizeof(double), "one double per name");
    static_assert(Rule::kStates <= update::kMaxStates, "raise kMaxStates");
    typename Rule::Hyper row;
    std::memcpy(&row, hyper, sizeof(row));
    AnyScalars scalars;
    scalars.set(Rule::prepare(row, step, grad_factor));
    return scalars;
}

template <class Rule>
void set_norms(Job& job, const Norms& norms) {
    if constexpr (update::kNeedsNorms<Rule>) {
        job.scalars.set(
            Rule::with_norms(job.scalars.as<typename Rule::Scalars>(), norms.weight_sq, norms.direction_sq));
    }
}

// The once-per-tensor part of each rule.
struct PerTensor {
    AnyScalars (*prepare)(const double* hyper, int64_t step, double grad_factor);
    void (*set_norms)(Job& job, const Norms& norms);
    bool needs_norms;
};

template <class... Rules>
const PerTensor& per_tensor(int rule, update::RuleList<Rules...>) {
    static constexpr PerTensor all[] = {{prepare<Rules>, set_norms<Rules>, update::kNeedsNorms<Rules>}...};
    return all[rule];
}

// What threads take of all tensors, numbered through: range r of tensor t is first[t] + r.
struct RangeList {
    std::vector<int64_t> first;
    int64_t elements = 0;

    explicit RangeList(const Step& step) : first(1, 0) {
        first.reserve(static_cast<size_t>(step.count) + 1);
        for (int64_t t = 0; t < step.count; ++t) {
            first.push_back(first.back() + ceil_div(step.tensors[t].numel, kRange));
            elements += step.tensors[t].numel;
        }
    }
    int64_t size() const { return first.back(); }
};

// f(tensor, begin, end) for every range. Threads draw ranges from one counter rather than taking what they were lent:
// ranges differ in size (the last of a tensor may be tiny), and a busy core then just draws fewer.
template <class F>
void for_each_range(const Step& step, const RangeList& ranges, const Parallel& parallel, const F& f) {
    const int64_t grain = ranges.elements <= kRange ? ranges.size() : 1;
    std::atomic<int64_t> next = 0;
    parallel(ranges.size(), grain, [&](int64_t, int64_t) {
        for (int64_t r = next.fetch_add(1); r < ranges.size(); r = next.fetch_add(1)) {
            const auto after = std::upper_bound(ranges.first.begin(), ranges.first.end(), r);
            const int64_t t = after - ranges.first.begin() - 1;
            const int64_t begin = (r - ranges.first[t]) * kRange;
            f(t, begin, smaller(step.tensors[t].numel, begin + kRange));
        }
    });
}

// Both norms of every tensor, for rules that need them.
std::vector<Norms> norms_of(const Step& step, const std::vector<Job>& jobs, const RangeList& ranges,
                            const Parallel& parallel) {
    std::vector<int64_t> first(1, 0);  // chunk of each tensor
    for (int64_t t = 0; t < step.count; ++t) first.push_back(first.back() + ceil_div(step.tensors[t].numel, kChunk));
    std::vector<Norms> of_chunk(static_cast<size_t>(first.back()));
    for_each_range(step, ranges, parallel, [&](int64_t t, int64_t begin, int64_t end) {
        engine().measure(jobs[t], begin, end, &of_chunk[first[t] + begin / kChunk]);
    });
    std::vector<Norms> norms;
    for (int64_t t = 0; t < step.count; ++t) {
        const Norms* own = of_chunk.data() + first[t];
        const int64_t chunks = first[t + 1] - first[t];
        norms.push_back({add_chunks(chunks, [&](int64_t c) { return own[c].weight_sq; }),
                         add_chunks(chunks, [&](int64_t c) { return own[c].direction_sq; })});
    }
    return norms;
}

template <class F>
void for_each_range(int64_t n, const Parallel& parallel, const F& f) {
    parallel(ceil_div(n, kRange), 1, [&](int64_t begin, int64_t end) { f(begin * kRange, smaller(n, end * kRange)); });
}

}  // namespace

void step(const Step& step, const Parallel& parallel) {
    const Gate now = gate(GateInputs{step.grad_scale, step.found_inf, step.sum_of_squares, step.max_grad_norm});
    const RangeList ranges(step);
    if (!now.open) {
        if (step.zero_grad) {
            for_each_range(step, ranges, parallel,
                           [&](int64_t t, int64_t begin, int64_t end) { zero_gradient(step.tensors[t], begin, end); });
        }
        return;
    }

    const PerTensor& rule = per_tensor(step.rule, update::AllRules{});
    std::vector<Job> jobs(static_cast<size_t>(step.count));
    for (int64_t t = 0; t < step.count; ++t) {
        const ParamTensor& tensor = step.tensors[t];
        const auto count = static_cast<int64_t>(*tensor.step) + 1;
        jobs[t] = {tensor,          rule.prepare(tensor.hyper, count, now.grad_factor),
                   step.rule,       step.rounding,
                   step.seed,       static_cast<uint32_t>(count),
                   step.ema_weight, step.zero_grad};
    }

    if (rule.needs_norms) {
        const std::vector<Norms> norms = norms_of(step, jobs, ranges, parallel);
        for (int64_t t = 0; t < step.count; ++t) rule.set_norms(jobs[t], norms[t]);
    }
    for_each_range(step, ranges, parallel,
                   [&](int64_t t, int64_t begin, int64_t end) { engine().update(jobs[t], begin, end); });
    for (int64_t t = 0; t < step.count; ++t) *step.tensors[t].step += 1.0f;
}

void split(const float* master, DType dtype, void* weight, int16_t* remainder, int64_t n, const Parallel& parallel) {
    for_each_range(n, parallel,
                   [&](int64_t begin, int64_t end) { engine().split(master, dtype, weight, remainder, begin, end); });
}

void join(DType dtype, const void* weight, const int16_t* remainder, float* master, int64_t n,
          const Parallel& parallel) {
    for_each_range(n, parallel,
                   [&](int64_t begin, int64_t end) { engine().join(dtype, weight, remainder, master, begin, end); });
}

void cast(const Cast& cast, const void* source, void* target, int64_t n, const Parallel& parallel) {
    for_each_range(n, parallel, [&](int64_t begin, int64_t end) { engine().cast(cast, source, target, begin, end); });
}

}  // namespace halfops::optim::cpu
