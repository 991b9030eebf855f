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

// Chunks of all tensors, numbered through: chunk c of tensor t is first[t] + c.
struct ChunkList {
    std::vector<int64_t> first;
    int64_t elements = 0;

    explicit ChunkList(const Step& step) : first(1, 0) {
        first.reserve(static_cast<size_t>(step.count) + 1);
        for (int64_t t = 0; t < step.count; ++t) {
            first.push_back(first.back() + ceil_div(step.tensors[t].numel, kChunk));
            elements += step.tensors[t].numel;
        }
    }
    int64_t size() const { return first.back(); }
};

// f(tensor, begin, end, chunk) for every chunk. Threads draw chunks from one counter rather than taking the range that
// they were lent: chunks differ in size (the last of a tensor may be tiny), and a busy core then just draws fewer.
template <class F>
void for_each_chunk(const Step& step, const ChunkList& chunks, const Parallel& parallel, const F& f) {
    const int64_t grain = chunks.elements <= kChunk ? chunks.size() : 1;
    std::atomic<int64_t> next = 0;
    parallel(chunks.size(), grain, [&](int64_t, int64_t) {
        for (int64_t c = next.fetch_add(1); c < chunks.size(); c = next.fetch_add(1)) {
            const auto after = std::upper_bound(chunks.first.begin(), chunks.first.end(), c);
            const int64_t t = after - chunks.first.begin() - 1;
            const int64_t begin = (c - chunks.first[t]) * kChunk;
            f(t, begin, smaller(step.tensors[t].numel, begin + kChunk), c);
        }
    });
}

template <class F>
void for_each_range(int64_t n, const Parallel& parallel, const F& f) {
    parallel(ceil_div(n, kChunk), 1, [&](int64_t begin, int64_t end) { f(begin * kChunk, smaller(n, end * kChunk)); });
}

}  // namespace

void step(const Step& step, const Parallel& parallel) {
    const Gate now =
        gate(step.grad_scale != nullptr ? *step.grad_scale : 1.0f, step.found_inf != nullptr ? *step.found_inf : 0.0f,
             step.sum_of_squares != nullptr ? *step.sum_of_squares : 0.0, step.max_grad_norm);
    const ChunkList chunks(step);
    if (!now.open) {
        if (step.zero_grad) {
            for_each_chunk(step, chunks, parallel, [&](int64_t t, int64_t begin, int64_t end, int64_t) {
                zero_gradient(step.tensors[t], begin, end);
            });
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

    const CpuEngine& engine = cpu::engine();
    if (rule.needs_norms) {
        std::vector<Norms> partial(static_cast<size_t>(chunks.size()));
        for_each_chunk(step, chunks, parallel, [&](int64_t t, int64_t begin, int64_t end, int64_t chunk) {
            partial[chunk] = engine.measure(jobs[t], begin, end);
        });
        for (int64_t t = 0; t < step.count; ++t) {
            Norms norms = {0.0, 0.0};
            for (int64_t c = chunks.first[t]; c < chunks.first[t + 1]; ++c) {
                norms.weight_sq += partial[c].weight_sq;
                norms.direction_sq += partial[c].direction_sq;
            }
            rule.set_norms(jobs[t], norms);
        }
    }
    for_each_chunk(step, chunks, parallel,
                   [&](int64_t t, int64_t begin, int64_t end, int64_t) { engine.update(jobs[t], begin, end); });
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
