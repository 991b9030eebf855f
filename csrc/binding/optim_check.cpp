#include <algorithm>
#include <limits>

#include "binding/optim.h"

namespace halfops::binding {
namespace {

void check_length(const std::vector<Tensor>& list, const char* name, size_t wanted, const std::string& why) {
    check(list.size() == wanted, name, ": got ", list.size(), " tensors, wanted ", wanted, ", ", why);
}

std::string strides_text(const Tensor& tensor) {
    std::string text;
    for (const int64_t stride : tensor.strides()) text += (text.empty() ? "[" : ", ") + std::to_string(stride);
    return text.empty() ? "[]" : text + "]";
}

void check_device(const Tensor& tensor, const Tensor& first, const Place& place) {
    if (tensor.get_device_index() != first.get_device_index() || tensor.is_cpu() != first.is_cpu()) {
        check_same_device(tensor, first, place.text(), "params[0]");
    }
}

// Of its parameter's shape, on the device that all share, in the order that is asked for.
void check_like(const Tensor& tensor, const Tensor& param, int64_t param_index, const Tensor& first, Order order,
                const Place& place) {
    if (!same_shape(tensor, param)) {
        fail(place.text(), ": got shape ", shape_text(tensor), ", wanted that of ", item("params", param_index), ", ",
             shape_text(param));
    }
    check_device(tensor, first, place);
    if (is_freed(tensor)) check_memory(tensor, place.text());
    if (order == Order::contiguous) {
        if (!tensor.is_contiguous()) check_contiguous(tensor, place.text());
    } else if (!same_order(tensor, param)) {
        fail(place.text(), ": got strides ", strides_text(tensor), ", wanted those of ", item("params", param_index),
             ", ", strides_text(param), "; copy it into torch.empty_like() of the parameter");
    }
}

void check_one(const std::optional<Tensor>& scalar, ScalarType dtype, const Tensor& param, const std::string& name) {
    if (!scalar.has_value()) return;
    check(scalar->numel() == 1 && scalar->scalar_type() == dtype, name, ": got ", dtype_name(scalar->scalar_type()),
          " of shape ", shape_text(*scalar), ", wanted one ", dtype_name(dtype), " number");
    check_same_device(*scalar, param, name, item("params", 0));
}

optim::MasterFormat master_format(const Tensor& master, const Tensor& param, int64_t index, const Tensor& first,
                                  Order order) {
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
    check_like(master, param, index, first, order, place);
    return type == ScalarType::Short ? optim::MasterFormat::split : optim::MasterFormat::f32;
}

void check_tables(const OptimLists& lists) {
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
    const int64_t* rows = static_cast<const int64_t*>(lists.rows.const_data_ptr());
    for (int64_t i = 0; i < n; ++i) {
        const int64_t key = rows[2 * i + 1];
        if (key < 0 || key > std::numeric_limits<uint32_t>::max()) {
            fail("rows[", i, "]: got random key ", key, ", wanted one of 32 bits without sign");
        }
    }
}

template <class T>
const T* scalar_pointer(const std::optional<Tensor>& tensor) {
    return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

}  // namespace

void check_dtype(const Tensor& tensor, ScalarType wanted, const Place& place) {
    const ScalarType type = tensor.scalar_type();
    if (type != wanted) fail(place.text(), ": got ", dtype_name(type), ", wanted ", dtype_name(wanted));
}

bool same_shape(const Tensor& a, const Tensor& b) {
    const auto x = a.sizes(), y = b.sizes();
    return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin());
}

bool same_order(const Tensor& a, const Tensor& b) {
    if (!same_shape(a, b)) return false;
    if (a.is_contiguous() && b.is_contiguous()) return true;
    const auto sizes = a.sizes(), x = a.strides(), y = b.strides();
    for (size_t d = 0; d < sizes.size(); ++d) {
        if (sizes[d] != 1 && x[d] != y[d]) return false;
    }
    return true;
}

optim::Rounding rounding_of(const std::string& name) {
    if (name == "nearest") return optim::Rounding::nearest;
    if (name == "stochastic") return optim::Rounding::stochastic;
    fail("rounding: got '", name, "', wanted 'nearest' or 'stochastic'");
}

std::vector<optim::ParamTensor> param_tensors(const OptimLists& lists, const optim::RuleInfo& rule, Order order) {
    const size_t n = lists.params.size(), state_count = rule.states.size();
    check(n > 0, "params: got an empty list, wanted at least one parameter");
    check_length(lists.masters, "masters", n, "one a parameter (an empty tensor for no master)");
    check_length(lists.states, "states", n * state_count,
                 "the " + std::to_string(state_count) + " moments of " + rule.name + " for each parameter");
    if (!lists.emas.empty()) check_length(lists.emas, "emas", n, "one a parameter (an empty tensor for no average)");
    check_tables(lists);

    const Tensor& first = lists.params[0];
    const auto* rows = static_cast<const int64_t*>(lists.rows.const_data_ptr());
    auto* steps = static_cast<float*>(lists.steps.mutable_data_ptr());
    std::vector<optim::ParamTensor> tensors(n);
    for (size_t t = 0; t < n; ++t) {
        const auto index = static_cast<int64_t>(t);
        optim::ParamTensor& tensor = tensors[t];
        const Tensor &param = lists.params[t], &master = lists.masters[t];
        const ScalarType type = param.scalar_type();
        const bool known = type == ScalarType::Half || type == ScalarType::BFloat16 || type == ScalarType::Float;
        tensor.dtype = dtype_of(param, known ? std::string() : item("params", index));
        if (order == Order::as_parameter && !is_dense(param)) check_dense(param, item("params", index));
        check_like(param, param, index, first, order, {"params", index});
        tensor.weight = param.mutable_data_ptr();
        tensor.grad = nullptr;
        tensor.master_format = master_format(master, param, index, first, order);
        tensor.master = tensor.master_format == optim::MasterFormat::none ? nullptr : master.mutable_data_ptr();
        for (size_t k = 0; k < state_count; ++k) {
            const Tensor& state = lists.states[k * n + t];
            const Place place = {"states", static_cast<int64_t>(k * n + t)};
            check_dtype(state, ScalarType::Float, place);
            check_like(state, param, index, first, order, place);
            tensor.states[k] = static_cast<float*>(state.mutable_data_ptr());
        }
        tensor.ema = nullptr;
        if (!lists.emas.empty() && lists.emas[t].numel() > 0) {
            check_dtype(lists.emas[t], ScalarType::Float, {"emas", index});
            check_like(lists.emas[t], param, index, first, order, {"emas", index});
            tensor.ema = static_cast<float*>(lists.emas[t].mutable_data_ptr());
        }
        tensor.step = steps + t;
        tensor.hyper = nullptr;
        tensor.numel = param.numel();
        tensor.key = static_cast<uint32_t>(rows[2 * t + 1]);
    }
    return tensors;
}

void check_gradient(const Tensor& grad, const Tensor& param, int64_t index, const Tensor& first, Order order) {
    const ScalarType type = param.scalar_type();
    if (grad.scalar_type() != type) {
        fail(item("grads", index), ": got ", dtype_name(grad.scalar_type()), ", wanted the dtype of ",
             item("params", index), ", ", dtype_name(type));
    }
    check_like(grad, param, index, first, order, {"grads", index});
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
        if (tensor.grad != nullptr) memory.add(tensor.grad, bytes, zero_grad, {"grads", index});
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

void check_hyper(const Tensor& hyper, const optim::RuleInfo& rule, const Tensor& first) {
    const auto columns = static_cast<int64_t>(rule.hypers.size());
    if (hyper.scalar_type() != ScalarType::Double || hyper.dim() != 2 || hyper.size(1) != columns) {
        std::string names;
        for (const auto& name : rule.hypers) names += (names.empty() ? "" : ", ") + name;
        fail("hyper: got ", dtype_name(hyper.scalar_type()), " of shape ", shape_text(hyper),
             ", wanted torch.float64 of shape [groups, ", columns, "] with the columns of ", rule.name, ": ", names);
    }
    check_contiguous(hyper, "hyper");
    check_same_device(hyper, first, "hyper", "params[0]");
}

void set_hyper(std::vector<optim::ParamTensor>& tensors, const Tensor& hyper, const Tensor& rows) {
    const auto* table = static_cast<const double*>(hyper.const_data_ptr());
    const auto* row_of = static_cast<const int64_t*>(rows.const_data_ptr());
    const int64_t groups = hyper.size(0), columns = hyper.size(1);
    for (size_t t = 0; t < tensors.size(); ++t) {
        const int64_t row = row_of[2 * t];
        if (row < 0 || row >= groups) {
            fail("rows[", t, "]: got row ", row, ", wanted one of the ", groups, " rows of hyper");
        }
        tensors[t].hyper = table + row * columns;
    }
}

void check_numbers(const OptimNumbers& numbers, const OptimLists& lists) {
    const Tensor& first = lists.params[0];
    check_one(numbers.grad_scale, ScalarType::Float, first, "grad_scale");
    check_one(numbers.found_inf, ScalarType::Float, first, "found_inf");
    check_one(numbers.sum_of_squares, ScalarType::Double, first, "sum_of_squares");
    check(!numbers.max_grad_norm.has_value() || numbers.sum_of_squares.has_value(),
          "max_grad_norm: got a bound without sum_of_squares, wanted both; grad_stats gives the sum");
    if (!numbers.ema_decay.has_value()) {
        check(lists.emas.empty(), "emas: got ", lists.emas.size(),
              " tensors without ema_decay, wanted both; pass an empty list for no averages");
        return;
    }
    // Not written as (decay < 0 || decay >= 1), which NaN would pass.
    check(*numbers.ema_decay >= 0.0 && *numbers.ema_decay < 1.0, "ema_decay: got ", *numbers.ema_decay,
          ", wanted a number in [0, 1)");
    check_length(lists.emas, "emas", lists.params.size(),
                 "one a parameter (an empty tensor for no average) with ema_decay");
}

std::vector<optim::ParamTensor> step_tensors(const OptimLists& lists, const std::vector<Tensor>& grads,
                                             const Tensor& hyper, const OptimNumbers& numbers,
                                             const optim::RuleInfo& rule) {
    check(!lists.params.empty(), "params: got an empty list, wanted at least one parameter");
    check_length(grads, "grads", lists.params.size(), "one a parameter");
    check_numbers(numbers, lists);
    check_hyper(hyper, rule, lists.params[0]);
    auto tensors = param_tensors(lists, rule, Order::contiguous);
    for (size_t t = 0; t < tensors.size(); ++t) {
        check_gradient(grads[t], lists.params[t], static_cast<int64_t>(t), lists.params[0], Order::contiguous);
        tensors[t].grad = grads[t].mutable_data_ptr();
    }
    set_hyper(tensors, hyper, lists.rows);
    check_disjoint(tensors, rule.states.size(), numbers.zero_grad);
    return tensors;
}

optim::Step make_step(const std::vector<optim::ParamTensor>& tensors, int rule, optim::Rounding rounding, int64_t seed,
                      const OptimNumbers& numbers) {
    optim::Step step;
    step.tensors = tensors.data();
    step.count = static_cast<int64_t>(tensors.size());
    step.rule = rule;
    step.rounding = rounding;
    step.seed = static_cast<uint64_t>(seed);
    step.grad_scale = scalar_pointer<float>(numbers.grad_scale);
    step.found_inf = scalar_pointer<float>(numbers.found_inf);
    step.sum_of_squares = scalar_pointer<double>(numbers.sum_of_squares);
    step.max_grad_norm = numbers.max_grad_norm.value_or(std::numeric_limits<double>::infinity());
    step.ema_weight = static_cast<float>(1.0 - numbers.ema_decay.value_or(1.0));
    step.zero_grad = numbers.zero_grad;
    return step;
}

}  // namespace halfops::binding
