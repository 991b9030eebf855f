// One step on the device: the scalars of every tensor, then one launch for each set of formats.
#include <cstring>

#include "collective/launch.cuh"
#include "optim/formats.cuh"
#include "optim/prepare.cuh"
#include "optim/sets.cuh"

namespace halfops::optim::cuda {
namespace {

bool same_set(const ParamTensor& tensor, const Set& set) {
    return tensor.dtype == set.dtype && tensor.master_format == set.master_format;
}

// The elements before the first at which every array of the tensor is 16-byte aligned, or kNoHead. Stochastic rounding
// draws four elements' bits at once, so its eights begin at multiples of four.
int64_t head_of(const ParamTensor& tensor, int states, bool stochastic) {
    const int64_t stored = bytes_of(tensor.dtype);
    const int64_t beside = tensor.master_format == MasterFormat::f32 ? 4 : 2;
    for (int64_t head = 0; head < 8; head += stochastic ? 4 : 1) {
        const auto fits = [=](const void* pointer, int64_t size) {
            return (address_of(pointer) + head * size) % 16 == 0;
        };
        bool all = fits(tensor.weight, stored) && (tensor.master == nullptr || fits(tensor.master, beside)) &&
                   (tensor.ema == nullptr || fits(tensor.ema, 4));
        for (int k = 0; k < states; ++k) all = all && fits(tensor.states[k], 4);
        if (all) return head;
    }
    return kNoHead;
}

struct RuleFacts {
    int states;
    bool needs_norms;
    int64_t prepared_bytes;
};

template <class... Rules>
RuleFacts facts_of(int rule, update::RuleList<Rules...>) {
    static constexpr RuleFacts all[] = {{Rules::kStates, update::kNeedsNorms<Rules>, sizeof(Prepared<Rules>)}...};
    return all[rule];
}

// The workspace of a step: the gate, the prepared rows, and sums of one set at a time.
struct Workspace {
    int32_t* open;
    char* prepared;
    void* sums;
};

constexpr int64_t kAlign = 16;

Workspace workspace_at(void* memory, const Plan& plan, const RuleFacts& facts) {
    char* begin = static_cast<char*>(memory);
    char* prepared = begin + kAlign;
    return {reinterpret_cast<int32_t*>(begin), prepared, prepared + plan.count * facts.prepared_bytes};
}

template <class Rule>
cudaError_t prepare(const Plan& plan, const Memory& memory, const Step& step, const Workspace& workspace,
                    cudaStream_t stream) {
    const Grid grid{static_cast<unsigned>(ceil_div(plan.count, kPrepareThreads)), kPrepareThreads};
    const auto* rows = reinterpret_cast<const ParamRow*>(memory.words);
    const GateInputs inputs = {step.grad_scale, step.found_inf, step.sum_of_squares, step.max_grad_norm};
    auto* prepared = reinterpret_cast<Prepared<Rule>*>(workspace.prepared);
    return launch<prepare_kernel<Rule>>(grid, stream, rows, plan.count, inputs, memory.hyper, memory.steps, prepared,
                                        workspace.open);
}

// After the measuring pass of one set: its norms into its prepared rows.
template <class Rule>
cudaError_t take_norms(const Set& set, const ChunkTable& table, const PairSums& sums, const Workspace& workspace,
                       cudaStream_t stream) {
    if constexpr (update::kNeedsNorms<Rule>) {
        cudaError_t status = add_pairs(table, sums, stream);
        if (status != cudaSuccess) return status;
        const Grid grid{static_cast<unsigned>(ceil_div(table.count, kPrepareThreads)), kPrepareThreads};
        const Pair* of_tensor = sums.of_tensor;
        const int32_t* open = workspace.open;
        auto* prepared = reinterpret_cast<Prepared<Rule>*>(workspace.prepared) + set.first_row;
        return launch<norms_kernel<Rule>>(grid, stream, of_tensor, table.count, open, prepared);
    }
    return cudaSuccess;
}

struct RuleCalls {
    cudaError_t (*prepare)(const Plan&, const Memory&, const Step&, const Workspace&, cudaStream_t);
    cudaError_t (*take_norms)(const Set&, const ChunkTable&, const PairSums&, const Workspace&, cudaStream_t);
};

template <class... Rules>
RuleCalls calls_of(int rule, update::RuleList<Rules...>) {
    static constexpr RuleCalls all[] = {{prepare<Rules>, take_norms<Rules>}...};
    return all[rule];
}

cudaError_t launch_typed(DType dtype, const SetLaunch& set) {
    switch (dtype) {
        case DType::f16:
            return launch_f16(set);
        case DType::bf16:
            return launch_bf16(set);
        default:
            return launch_f32(set);
    }
}

Grid one_thread_each(int64_t n) {
    constexpr int64_t kMost = 1 << 16;
    return {static_cast<unsigned>(larger(1, smaller(kMost, ceil_div(n, kFormatThreads)))), kFormatThreads};
}

template <class From, class To>
cudaError_t cast_to(const cpu::Cast& cast, const void* source, void* target, int64_t n, cudaStream_t stream) {
    return launch<cast_kernel<From, To>>(one_thread_each(n), stream, cast, static_cast<const From*>(source),
                                         static_cast<To*>(target), n);
}

template <class From>
cudaError_t cast_from(const cpu::Cast& cast, const void* source, void* target, int64_t n, cudaStream_t stream) {
    switch (cast.to) {
        case DType::f16:
            return cast_to<From, f16>(cast, source, target, n, stream);
        case DType::bf16:
            return cast_to<From, bf16>(cast, source, target, n, stream);
        default:
            return cast_to<From, float>(cast, source, target, n, stream);
    }
}

}  // namespace

Plan make_plan(const ParamTensor* tensors, const int64_t* hyper_rows, int64_t count, int rule, Rounding rounding) {
    const RuleFacts facts = facts_of(rule, update::AllRules{});
    Plan plan{};
    plan.count = count;
    plan.rule = rule;
    plan.rounding = rounding;
    std::vector<std::vector<int64_t>> members;  // of each set, in the list's order
    for (int64_t t = 0; t < count; ++t) {
        size_t s = 0;
        while (s < plan.sets.size() && !same_set(tensors[t], plan.sets[s])) ++s;
        if (s == plan.sets.size()) {
            plan.sets.push_back({tensors[t].dtype, tensors[t].master_format, 0, {}, 0});
            members.emplace_back();
        }
        members[s].push_back(t);
    }
    for (const auto& set : members) {
        for (const int64_t t : set) {
            const ParamTensor& tensor = tensors[t];
            const bool stochastic = rounding == Rounding::stochastic && tensor.master_format == MasterFormat::none;
            ParamRow row{};
            row.weight = address_of(tensor.weight);
            row.master = address_of(tensor.master);
            for (int k = 0; k < facts.states; ++k) row.states[k] = address_of(tensor.states[k]);
            row.ema = address_of(tensor.ema);
            row.numel = tensor.numel;
            row.index = t;
            row.hyper = hyper_rows[t];
            row.key = tensor.key;
            row.head = head_of(tensor, facts.states, stochastic);
            const size_t at = plan.words.size();
            plan.words.resize(at + kRowWords);
            std::memcpy(plan.words.data() + at, &row, sizeof(row));
        }
    }
    int64_t first_row = 0, sums = 0;
    for (size_t s = 0; s < members.size(); ++s) {
        Set& set = plan.sets[s];
        set.first_row = first_row;
        set.table_word = static_cast<int64_t>(plan.words.size());
        set.chunks = append_chunk_table(plan.words, static_cast<int64_t>(members[s].size()),
                                        [&](int64_t i) { return tensors[members[s][i]].numel; });
        first_row += set.chunks.count;
        if (facts.needs_norms) sums = larger(sums, pair_sums_bytes(set.chunks));
    }
    plan.workspace_bytes = kAlign + count * facts.prepared_bytes + sums;
    return plan;
}

CudaStatus supported() { return status_of(has_kernel<join_kernel<f16>>()); }

CudaStatus step(const Plan& plan, const Memory& memory, const Step& step, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    const RuleFacts facts = facts_of(plan.rule, update::AllRules{});
    const RuleCalls calls = calls_of(plan.rule, update::AllRules{});
    const Workspace workspace = workspace_at(memory.workspace, plan, facts);
    cudaError_t status = calls.prepare(plan, memory, step, workspace, queue);
    for (const Set& set : plan.sets) {
        const ChunkTable table = chunk_table_at(memory.words + set.table_word, set.chunks);
        const PairSums sums = facts.needs_norms ? pair_sums_at(workspace.sums, table) : PairSums{};
        SetLaunch launch = {plan.rule, set.master_format, plan.rounding, false, {}, queue};
        launch.arguments = {reinterpret_cast<const ParamRow*>(memory.words) + set.first_row,
                            workspace.prepared + set.first_row * facts.prepared_bytes,
                            table,
                            memory.gradients,
                            workspace.open,
                            sums.of_chunk,
                            step.seed,
                            step.ema_weight,
                            step.zero_grad};
        if (facts.needs_norms) {
            launch.measure = true;
            if (status == cudaSuccess) status = launch_typed(set.dtype, launch);
            if (status == cudaSuccess) status = calls.take_norms(set, table, sums, workspace, queue);
            launch.measure = false;
        }
        if (status == cudaSuccess) status = launch_typed(set.dtype, launch);
    }
    return status_of(status);
}

CudaStatus split(const float* master, DType dtype, void* weight, int16_t* remainder, int64_t n, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    if (dtype == DType::f16) {
        auto* halves = static_cast<f16*>(weight);
        return status_of(launch<split_kernel<f16>>(one_thread_each(n), queue, master, halves, remainder, n));
    }
    auto* halves = static_cast<bf16*>(weight);
    return status_of(launch<split_kernel<bf16>>(one_thread_each(n), queue, master, halves, remainder, n));
}

CudaStatus join(DType dtype, const void* weight, const int16_t* remainder, float* master, int64_t n, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    if (dtype == DType::f16) {
        const auto* halves = static_cast<const f16*>(weight);
        return status_of(launch<join_kernel<f16>>(one_thread_each(n), queue, halves, remainder, master, n));
    }
    const auto* halves = static_cast<const bf16*>(weight);
    return status_of(launch<join_kernel<bf16>>(one_thread_each(n), queue, halves, remainder, master, n));
}

CudaStatus cast(const cpu::Cast& cast, const void* source, void* target, int64_t n, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    switch (cast.from) {
        case DType::f16:
            return status_of(cast_from<f16>(cast, source, target, n, queue));
        case DType::bf16:
            return status_of(cast_from<bf16>(cast, source, target, n, queue));
        default:
            return status_of(cast_from<float>(cast, source, target, n, queue));
    }
}

}  // namespace halfops::optim::cuda
