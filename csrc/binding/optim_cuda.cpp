// The optim ops on CUDA tensors, and the engine behind plans. Compiled only in CUDA builds (setup.py: *_cuda.cpp).
#include <set>

#include "binding/device.h"
#include "binding/optim_plan.h"

namespace halfops::binding {
namespace {

// The first column of rows: each tensor's row of hyper-parameters.
std::vector<int64_t> hyper_rows(const Tensor& rows) {
    const auto* pairs = static_cast<const int64_t*>(rows.const_data_ptr());
    std::vector<int64_t> first(static_cast<size_t>(rows.size(0)));
    for (size_t t = 0; t < first.size(); ++t) first[t] = pairs[2 * t];
    return first;
}

std::vector<scale::Span> gradient_spans(const std::vector<optim::ParamTensor>& tensors) {
    std::vector<scale::Span> spans;
    spans.reserve(tensors.size());
    for (const optim::ParamTensor& tensor : tensors) spans.push_back({tensor.grad, tensor.numel, tensor.dtype});
    return spans;
}

Tensor gradient_addresses(const std::vector<optim::ParamTensor>& tensors, const OnDevice& device) {
    const auto spans = gradient_spans(tensors);
    return device.words(scale::span_addresses(spans.data(), static_cast<int64_t>(spans.size())));
}

void launch_step(const optim::cuda::Plan& plan, const Tensor& words, const Tensor& addresses, const Tensor& hyper,
                 const Tensor& steps, const optim::Step& step, const OnDevice& device) {
    const Tensor workspace = device.bytes(plan.workspace_bytes);
    const optim::cuda::Memory memory = {words_of(words), words_of(addresses),
                                        static_cast<const double*>(hyper.const_data_ptr()),
                                        static_cast<float*>(steps.mutable_data_ptr()), workspace.mutable_data_ptr()};
    device.check(optim::cuda::step(plan, memory, step, device.stream()));
}

// --- plans ----------------------------------------------------------------------------------------------------------

// What the kernels read of a plan. Tables of the parameters and of the list of gradients stay until a tensor changes;
// the gradients' addresses are written anew when one has moved.
struct TablesOnDevice {
    optim::cuda::Plan plan;
    Tensor words;  // of plan
    ChunkTable sizes;
    Tensor list;  // words of the gradients' SpanTable
    Tensor addresses;
    std::vector<Tensor> of_graphs;  // what else a graph goes on reading and writing
};

// A graph reads its tables whenever it is replayed, and nobody says when it has been for the last time.
void keep_for_graphs(const std::shared_ptr<TablesOnDevice>& tables, const Plan& plan) {
    if (tables->of_graphs.empty()) tables->of_graphs.push_back(plan.steps);
    if (plan.hyper.has_value()) tables->of_graphs.push_back(*plan.hyper);
    static std::mutex mutex;
    static auto* kept = new std::set<std::shared_ptr<TablesOnDevice>>;
    const std::lock_guard<std::mutex> lock(mutex);
    kept->insert(tables);
}

// The tables as they are now; what they hold of the gradients does not depend on where those are.
std::shared_ptr<TablesOnDevice> tables_of(Plan& plan, const OnDevice& device, bool capturing) {
    auto tables = std::static_pointer_cast<TablesOnDevice>(plan.device);
    if (tables != nullptr && !plan.tensors_changed) return tables;
    check(!capturing,
          "optimizer step in a CUDA graph: got a list of tensors that has changed since the last step (or there was "
          "none), wanted one that the device knows; take a step with these parameters, gradients and groups before "
          "the capture");
    const auto count = static_cast<int64_t>(plan.tensors.size());
    tables = std::make_shared<TablesOnDevice>();
    const auto spans = gradient_spans(plan.tensors);
    tables->list = device.words(scale::span_words(spans.data(), count, &tables->sizes));
    const auto groups = hyper_rows(plan.rows);
    tables->plan = optim::cuda::make_plan(plan.tensors.data(), groups.data(), count, plan.rule, plan.rounding);
    tables->words = device.words(tables->plan.words);
    plan.device = tables;
    plan.tensors_changed = false;
    plan.grads_changed = true;
    return tables;
}

// Where the gradients are. A graph gets a copy of its own: the plan's moves on with the steps outside of the graph.
Tensor addresses_of(Plan& plan, TablesOnDevice& tables, const OnDevice& device, bool capturing) {
    if (capturing) return gradient_addresses(plan.tensors, device);
    if (plan.grads_changed) tables.addresses = gradient_addresses(plan.tensors, device);
    plan.grads_changed = false;
    return tables.addresses;
}

struct Ready {
    OnDevice device;
    std::shared_ptr<TablesOnDevice> tables;
    Tensor addresses;

    Ready(Plan& plan, const char* op) : device(op, plan.device_index, &optim::cuda::supported) {
        const bool capturing = device.is_capturing();
        tables = tables_of(plan, device, capturing);
        addresses = addresses_of(plan, *tables, device, capturing);
        if (capturing) keep_for_graphs(tables, plan);
    }
};

void plan_stats(Plan& plan, bool count_zeros, const scale::StatsOut& out) {
    const Ready now(plan, "optim_plan_stats");
    const scale::SpanTable list =
        scale::span_table_at(words_of(now.addresses), words_of(now.tables->list), now.tables->sizes);
    const Tensor workspace = now.device.bytes(scale::cuda::workspace_bytes(list.chunks));
    now.device.check(
        scale::cuda::grad_stats(list, count_zeros, workspace.mutable_data_ptr(), now.device.stream(), out));
}

void plan_step(Plan& plan, const optim::Step& step) {
    const Ready now(plan, "optim_plan_step");
    launch_step(now.tables->plan, now.tables->words, now.addresses, *plan.hyper, plan.steps, step, now.device);
}

const bool kRegistered = [] {
    set_cuda_backend({&plan_stats, &plan_step});
    return true;
}();

// --- ops ------------------------------------------------------------------------------------------------------------

void optim_step_(std::string rule, std::vector<Tensor> params, std::vector<Tensor> grads, std::vector<Tensor> masters,
                 std::vector<Tensor> states, std::vector<Tensor> emas, Tensor steps, Tensor rows, Tensor hyper,
                 std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf,
                 std::optional<Tensor> sum_of_squares, std::optional<double> max_grad_norm,
                 std::optional<double> ema_decay, std::string rounding, int64_t seed, bool zero_grad) {
    const int index = optim::rule_index(rule);
    const optim::Rounding mode = rounding_of(rounding);
    const OptimNumbers numbers = {grad_scale, found_inf, sum_of_squares, max_grad_norm, ema_decay, zero_grad};
    const OptimLists lists = {params, masters, states, emas, steps, rows};
    const auto tensors = step_tensors(lists, grads, hyper, numbers, optim::rules()[index]);
    const optim::Step step = make_step(tensors, index, mode, seed, numbers);

    const OnDevice device("optim_step_", params[0].get_device_index(), &optim::cuda::supported);
    const auto groups = hyper_rows(rows);
    const auto plan = optim::cuda::make_plan(tensors.data(), groups.data(), step.count, index, step.rounding);
    launch_step(plan, device.words(plan.words), gradient_addresses(tensors, device), hyper, steps, step, device);
}

void write_(Tensor target, Tensor values) {
    check_write(target, values);
    const OnDevice device("write_", target.get_device_index(), &optim::cuda::supported);
    device.write(target, static_cast<const int64_t*>(values.const_data_ptr()), values.numel());
}

std::tuple<Tensor, Tensor> split_master(Tensor master, ScalarType dtype) {
    const auto [weight, remainder] = empty_split(master, dtype);
    const OnDevice device("split_master", master.get_device_index(), &optim::cuda::supported);
    device.check(optim::cuda::split(static_cast<const float*>(master.const_data_ptr()), dtype_from(dtype),
                                    weight.mutable_data_ptr(), static_cast<int16_t*>(remainder.mutable_data_ptr()),
                                    master.numel(), device.stream()));
    return {weight, remainder};
}

Tensor join_master(Tensor weight, Tensor remainder) {
    const Tensor master = empty_join(weight, remainder);
    const OnDevice device("join_master", weight.get_device_index(), &optim::cuda::supported);
    device.check(optim::cuda::join(dtype_from(weight.scalar_type()), weight.const_data_ptr(),
                                   static_cast<const int16_t*>(remainder.const_data_ptr()),
                                   static_cast<float*>(master.mutable_data_ptr()), weight.numel(), device.stream()));
    return master;
}

Tensor cast(Tensor input, ScalarType dtype, std::string rounding, int64_t seed, int64_t step, int64_t key) {
    const optim::cpu::Cast cast = checked_cast(input, dtype, rounding, seed, step, key);
    const OnDevice device("cast", input.get_device_index(), &optim::cuda::supported);
    const Tensor output = empty_with(input, dtype);
    device.check(
        optim::cuda::cast(cast, input.const_data_ptr(), output.mutable_data_ptr(), input.numel(), device.stream()));
    return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CUDA, m) {
    m.impl("optim_step_", TORCH_BOX(&optim_step_));
    m.impl("write_", TORCH_BOX(&write_));
    m.impl("split_master", TORCH_BOX(&split_master));
    m.impl("join_master", TORCH_BOX(&join_master));
    m.impl("cast", TORCH_BOX(&cast));
}

}  // namespace halfops::binding
