// The optim ops on CPU tensors, and the checks that every device shares.
#include "binding/optim.h"

#include <algorithm>
#include <limits>

namespace halfops::binding {
namespace {

void check_length(const std::vector<Tensor>& list, const char* name, size_t wanted, const std::string& why) {
    check(list.size() == wanted, name, ": got ", list.size(), " tensors, wanted ", wanted, ", ", why);
}

void check_dtype(const Tensor& tensor, ScalarType wanted, const Place& place) {
    const ScalarType type = tensor.scalar_type();
    if (type != wanted) fail(place.text(), ": got ", dtype_name(type), ", wanted ", dtype_name(wanted));
}

bool same_shape(const Tensor& a, const Tensor& b) {
    const auto x = a.sizes(), y = b.sizes();
    return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin());
}

// Contiguous, and on the device that all share.
void check_layout(const Tensor& tensor, const Tensor& first, const Place& place) {
    if (tensor.get_device_index() != first.get_device_index() || tensor.is_cpu() != first.is_cpu()) {
        check_same_device(tensor, first, place.text(), "params[0]");
    }
    if (!tensor.is_contiguous()) check_contiguous(tensor, place.text());
}

// Also of its parameter's shape.
void check_like(const Tensor& tensor, const Tensor& param, int64_t param_index, const Tensor& first,
                const Place& place) {
    if (!same_shape(tensor, param)) {
        fail(place.text(), ": got shape ", shape_text(tensor), ", wanted that of ", item("params", param_index), ", ",
             shape_text(param));
    }
    check_layout(tensor, first, place);
}

void check_one(const std::optional<Tensor>& scalar, ScalarType dtype, const Tensor& param, const std::string& name) {
    if (!scalar.has_value()) return;
    check(scalar->numel() == 1 && scalar->scalar_type() == dtype, name, ": got ", dtype_name(scalar->scalar_type()),
          " of shape ", shape_text(*scalar), ", wanted one ", dtype_name(dtype), " number");
    check_same_device(*scalar, param, name, item("params", 0));
}

optim::MasterFormat master_format(const Tensor& master, const Tensor& param, int64_t index, const Tensor& first) {
    if (master.numel() == 0) return optim::MasterFormat::none;
    const Place place = {"masters", index};
    if (param.scalar_type() == ScalarType::Float) {
        fail(place.text(), ": got a master for ", item("params", index),
             ", which is torch.float32 and needs none; pass an empty tensor");
    }
    const ScalarType type = master.scalar_type();
    if (type != ScalarType::Short && type != ScalarType::Float) {
        fail(place.text(), ": got ", dtype_name(type),
             ", wanted torch.int16 (split remainder), torch.float32 (master) or an empty tensor (no master)");
    }
    check_like(master, param, index, first, place);
    return type == ScalarType::Short ? optim::MasterFormat::split : optim::MasterFormat::f32;
}

// One average a parameter, and the share that each step gives to the new weight.
void check_emas(const OptimLists& lists, std::optional<double> decay) {
    if (!decay.has_value()) {
        check(lists.emas.empty(), "emas: got ", lists.emas.size(),
              " tensors without ema_decay, wanted both; pass an empty list for no averages");
        return;
    }
    // Not written as (decay < 0 || decay >= 1), which NaN would pass.
    check(*decay >= 0.0 && *decay < 1.0, "ema_decay: got ", *decay, ", wanted a number in [0, 1)");
    check_length(lists.emas, "emas", lists.params.size(),
                 "one a parameter (an empty tensor for no average) with ema_decay");
}

void check_disjoint(const std::vector<optim::ParamTensor>& tensors, size_t state_count, bool zero_grad) {
    const size_t n = tensors.size();
    Disjoint memory(n * (4 + state_count) + 1);
    memory.add(tensors[0].step, static_cast<int64_t>(n * sizeof(float)), true, {"steps", -1});
    for (size_t t = 0; t < n; ++t) {
        const optim::ParamTensor& tensor = tensors[t];
        const auto index = static_cast<int64_t>(t);
        const int64_t bytes = tensor.numel * bytes_of(tensor.dtype);
        memory.add(tensor.weight, bytes, true, {"params", index});
        memory.add(tensor.grad, bytes, zero_grad, {"grads", index});
        if (tensor.ema != nullptr) memory.add(tensor.ema, tensor.numel * 4, true, {"emas", index});
        if (tensor.master_format != optim::MasterFormat::none) {
            const bool split = tensor.master_format == optim::MasterFormat::split;
            memory.add(tensor.master, tensor.numel * (split ? 2 : 4), true, {"masters", index});
        }
        for (size_t k = 0; k < state_count; ++k) {
            memory.add(tensor.states[k], tensor.numel * 4, true, {"states", static_cast<int64_t>(k * n + t)});
        }
    }
    memory.check();
}

void check_tables(const OptimLists& lists, const optim::RuleInfo& rule) {
    const auto n = static_cast<int64_t>(lists.params.size());
    check(lists.steps.scalar_type() == ScalarType::Float && lists.steps.dim() == 1 && lists.steps.numel() == n,
          "steps: got ", dtype_name(lists.steps.scalar_type()), " of shape ", shape_text(lists.steps),
          ", wanted torch.float32 of shape [", n, "], one count a parameter");
    check_contiguous(lists.steps, "steps");
    check_same_device(lists.steps, lists.params[0], "steps", "params[0]");

    check(lists.rows.scalar_type() == ScalarType::Long && lists.rows.dim() == 2 && lists.rows.size(0) == n &&
              lists.rows.size(1) == 2,
          "rows: got ", dtype_name(lists.rows.scalar_type()), " of shape ", shape_text(lists.rows),
          ", wanted torch.int64 of shape [", n, ", 2]: the row of hyper and the random key of each parameter");
    check(lists.rows.is_cpu(), "rows: got a tensor on another device, wanted one on the CPU");
    check_contiguous(lists.rows, "rows");

    const auto columns = static_cast<int64_t>(rule.hypers.size());
    std::string names;
    for (const auto& name : rule.hypers) names += (names.empty() ? "" : ", ") + name;
    check(lists.hyper.scalar_type() == ScalarType::Double && lists.hyper.dim() == 2 && lists.hyper.size(1) == columns,
          "hyper: got ", dtype_name(lists.hyper.scalar_type()), " of shape ", shape_text(lists.hyper),
          ", wanted torch.float64 of shape [groups, ", columns, "] with the columns of ", rule.name, ": ", names);
    check_contiguous(lists.hyper, "hyper");
    check_same_device(lists.hyper, lists.params[0], "hyper", "params[0]");

    const int64_t* rows = static_cast<const int64_t*>(lists.rows.const_data_ptr());
    const int64_t groups = lists.hyper.size(0);
    for (int64_t i = 0; i < n; ++i) {
        const int64_t row = rows[2 * i], key = rows[2 * i + 1];
        if (row < 0 || row >= groups) {
            fail("rows[", i, "]: got row ", row, ", wanted one of the ", groups, " rows of hyper");
        }
        if (key < 0 || key > std::numeric_limits<uint32_t>::max()) {
            fail("rows[", i, "]: got random key ", key, ", wanted one of 32 bits without sign");
        }
    }
}

}  // namespace

optim::Rounding rounding_of(const std::string& name) {
    if (name == "nearest") return optim::Rounding::nearest;
    if (name == "stochastic") return optim::Rounding::stochastic;
    fail("rounding: got '", name, "', wanted 'nearest' or 'stochastic'");
}

std::vector<optim::ParamTensor> param_tensors(const OptimLists& lists, const optim::RuleInfo& rule,
                                              const OptimNumbers& numbers) {
    const size_t n = lists.params.size(), state_count = rule.states.size();
    check(n > 0, "params: got an empty list, wanted at least one parameter");
    check_length(lists.grads, "grads", n, "one a parameter");
    check_length(lists.masters, "masters", n, "one a parameter (an empty tensor for no master)");
    check_length(lists.states, "states", n * state_count,
                 "the " + std::to_string(state_count) + " moments of " + rule.name + " for each parameter");
    check_one(lists.grad_scale, ScalarType::Float, lists.params[0], "grad_scale");
    check_one(lists.found_inf, ScalarType::Float, lists.params[0], "found_inf");
    check_one(lists.sum_of_squares, ScalarType::Double, lists.params[0], "sum_of_squares");
    check(!numbers.max_grad_norm.has_value() || lists.sum_of_squares.has_value(),
          "max_grad_norm: got a bound without sum_of_squares, wanted both; grad_stats gives the sum");
    check_emas(lists, numbers.ema_decay);
    check_tables(lists, rule);

    const Tensor& first = lists.params[0];
    const auto* rows = static_cast<const int64_t*>(lists.rows.const_data_ptr());
    const auto* hyper = static_cast<const double*>(lists.hyper.const_data_ptr());
    auto* steps = static_cast<float*>(lists.steps.mutable_data_ptr());
    std::vector<optim::ParamTensor> tensors(n);
    for (size_t t = 0; t < n; ++t) {
        const auto index = static_cast<int64_t>(t);
        optim::ParamTensor& tensor = tensors[t];
        const Tensor &param = lists.params[t], &grad = lists.grads[t], &master = lists.masters[t];
        const ScalarType type = param.scalar_type();
        const bool known = type == ScalarType::Half || type == ScalarType::BFloat16 || type == ScalarType::Float;
        tensor.dtype = dtype_of(param, known ? std::string() : item("params", index));
        check_layout(param, first, {"params", index});
        if (grad.scalar_type() != type) {
            fail(item("grads", index), ": got ", dtype_name(grad.scalar_type()), ", wanted the dtype of ",
                 item("params", index), ", ", dtype_name(type));
        }
        check_like(grad, param, index, first, {"grads", index});
        tensor.master_format = master_format(master, param, index, first);
        tensor.weight = param.mutable_data_ptr();
        tensor.grad = grad.mutable_data_ptr();
        tensor.master = tensor.master_format == optim::MasterFormat::none ? nullptr : master.mutable_data_ptr();
        for (size_t k = 0; k < state_count; ++k) {
            const Tensor& state = lists.states[k * n + t];
            const Place place = {"states", static_cast<int64_t>(k * n + t)};
            check_dtype(state, ScalarType::Float, place);
            check_like(state, param, index, first, place);
            tensor.states[k] = static_cast<float*>(state.mutable_data_ptr());
        }
        tensor.ema = nullptr;
        if (!lists.emas.empty() && lists.emas[t].numel() > 0) {
            check_dtype(lists.emas[t], ScalarType::Float, {"emas", index});
            check_like(lists.emas[t], param, index, first, {"emas", index});
            tensor.ema = static_cast<float*>(lists.emas[t].mutable_data_ptr());
        }
        tensor.step = steps + t;
        tensor.hyper = hyper + rows[2 * t] * static_cast<int64_t>(rule.hypers.size());
        tensor.numel = param.numel();
        tensor.key = static_cast<uint32_t>(rows[2 * t + 1]);
    }
    check_disjoint(tensors, state_count, numbers.zero_grad);
    return tensors;
}

namespace {

template <class T>
const T* scalar_pointer(const std::optional<Tensor>& tensor) {
    return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

void optim_step_(std::string rule, std::vector<Tensor> params, std::vector<Tensor> grads, std::vector<Tensor> masters,
                 std::vector<Tensor> states, std::vector<Tensor> emas, Tensor steps, Tensor rows, Tensor hyper,
                 std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf,
                 std::optional<Tensor> sum_of_squares, std::optional<double> max_grad_norm,
                 std::optional<double> ema_decay, std::string rounding, int64_t seed, bool zero_grad) {
    const int index = optim::rule_index(rule);
    const optim::Rounding mode = rounding_of(rounding);
    const OptimLists lists = {params, grads, masters,    states,    emas,          steps,
                              rows,   hyper, grad_scale, found_inf, sum_of_squares};
    const OptimNumbers numbers = {max_grad_norm, ema_decay, zero_grad};
    const auto tensors = param_tensors(lists, optim::rules()[index], numbers);

    optim::Step step;
    step.tensors = tensors.data();
    step.count = static_cast<int64_t>(tensors.size());
    step.rule = index;
    step.rounding = mode;
    step.seed = static_cast<uint64_t>(seed);
    step.grad_scale = scalar_pointer<float>(grad_scale);
    step.found_inf = scalar_pointer<float>(found_inf);
    step.sum_of_squares = scalar_pointer<double>(sum_of_squares);
    step.max_grad_norm = max_grad_norm.value_or(std::numeric_limits<double>::infinity());
    step.ema_weight = ema_weight(numbers);
    step.zero_grad = zero_grad;
    optim::cpu::step(step, torch_parallel());
}

Tensor empty_like(const Tensor& tensor, ScalarType dtype) {
    return torch::stable::empty(tensor.sizes(), dtype, std::nullopt, tensor.device());
}

void check_half(ScalarType dtype) {
    check(dtype == ScalarType::Half || dtype == ScalarType::BFloat16, "dtype: got ", dtype_name(dtype),
          ", wanted torch.float16 or torch.bfloat16");
}

DType dtype_from(ScalarType dtype) {
    if (dtype == ScalarType::Half) return DType::f16;
    if (dtype == ScalarType::BFloat16) return DType::bf16;
    check(dtype == ScalarType::Float, "dtype: got ", dtype_name(dtype),
          ", wanted torch.float16, torch.bfloat16 or torch.float32");
    return DType::f32;
}

std::tuple<Tensor, Tensor> split_master(Tensor master, ScalarType dtype) {
    check_half(dtype);
    check_dtype(master, ScalarType::Float, {"master", -1});
    check_contiguous(master, "master");
    Tensor weight = empty_like(master, dtype), remainder = empty_like(master, ScalarType::Short);
    optim::cpu::split(static_cast<const float*>(master.const_data_ptr()), dtype_from(dtype), weight.mutable_data_ptr(),
                      static_cast<int16_t*>(remainder.mutable_data_ptr()), master.numel(), torch_parallel());
    return {weight, remainder};
}

Tensor join_master(Tensor weight, Tensor remainder) {
    check(weight.scalar_type() == ScalarType::Half || weight.scalar_type() == ScalarType::BFloat16, "weight: got ",
          dtype_name(weight.scalar_type()), ", wanted torch.float16 or torch.bfloat16");
    check_dtype(remainder, ScalarType::Short, {"remainder", -1});
    check_contiguous(weight, "weight");
    check_contiguous(remainder, "remainder");
    check(same_shape(weight, remainder), "remainder: got shape ", shape_text(remainder), ", wanted that of weight, ",
          shape_text(weight));
    Tensor master = empty_like(weight, ScalarType::Float);
    optim::cpu::join(dtype_from(weight.scalar_type()), weight.const_data_ptr(),
                     static_cast<const int16_t*>(remainder.const_data_ptr()),
                     static_cast<float*>(master.mutable_data_ptr()), weight.numel(), torch_parallel());
    return master;
}

Tensor cast(Tensor input, ScalarType dtype, std::string rounding, int64_t seed, int64_t step, int64_t key) {
    const DType to = dtype_from(dtype);
    const auto in_word = [](int64_t number) {
        return number >= 0 && number <= static_cast<int64_t>(std::numeric_limits<uint32_t>::max());
    };
    check(in_word(step), "step: got ", step, ", wanted one of 32 bits without sign");
    check(in_word(key), "key: got ", key, ", wanted one of 32 bits without sign");
    check_contiguous(input, "input");
    const optim::cpu::Cast cast = {dtype_of(input, "input"),    to,
                                   rounding_of(rounding),       static_cast<uint64_t>(seed),
                                   static_cast<uint32_t>(step), static_cast<uint32_t>(key)};
    Tensor output = empty_like(input, dtype);
    optim::cpu::cast(cast, input.const_data_ptr(), output.mutable_data_ptr(), input.numel(), torch_parallel());
    return output;
}

std::vector<std::string> optim_rules() {
    std::vector<std::string> names;
    for (const auto& rule : optim::rules()) names.push_back(rule.name);
    return names;
}

std::vector<std::string> optim_hyper_names(std::string rule) { return optim::rules()[optim::rule_index(rule)].hypers; }
std::vector<std::string> optim_state_names(std::string rule) { return optim::rules()[optim::rule_index(rule)].states; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CPU, m) {
    m.impl("optim_step_", TORCH_BOX(&optim_step_));
    m.impl("split_master", TORCH_BOX(&split_master));
    m.impl("join_master", TORCH_BOX(&join_master));
    m.impl("cast", TORCH_BOX(&cast));
}

STABLE_TORCH_LIBRARY_IMPL(halfops, CompositeExplicitAutograd, m) {
    m.impl("optim_rules", TORCH_BOX(&optim_rules));
    m.impl("optim_hyper_names", TORCH_BOX(&optim_hyper_names));
    m.impl("optim_state_names", TORCH_BOX(&optim_state_names));
}

}  // namespace halfops::binding
