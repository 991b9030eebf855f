// The optim ops on CPU tensors.
#include "binding/optim.h"

#include <cstring>
#include <limits>

namespace halfops::binding {

void check_write(const Tensor& target, const Tensor& values) {
    check(values.is_cpu(), "values: got a tensor on another device, wanted one on the CPU; use target.copy_(values)");
    check(target.element_size() == 8, "target: got ", dtype_name(target.scalar_type()),
          ", wanted a dtype of 8 bytes (torch.float64, torch.int64)");
    check_dtype(values, target.scalar_type(), {"values", -1});
    check(same_shape(target, values), "values: got shape ", shape_text(values), ", wanted that of target, ",
          shape_text(target));
    check_contiguous(target, "target");
    check_contiguous(values, "values");
}

DType dtype_from(ScalarType dtype) {
    if (dtype == ScalarType::Half) return DType::f16;
    if (dtype == ScalarType::BFloat16) return DType::bf16;
    check(dtype == ScalarType::Float, "dtype: got ", dtype_name(dtype),
          ", wanted torch.float16, torch.bfloat16 or torch.float32");
    return DType::f32;
}

Tensor empty_with(const Tensor& tensor, ScalarType dtype) {
    return torch::stable::empty(tensor.sizes(), dtype, std::nullopt, tensor.device());
}

std::tuple<Tensor, Tensor> empty_split(const Tensor& master, ScalarType dtype) {
    check(dtype == ScalarType::Half || dtype == ScalarType::BFloat16, "dtype: got ", dtype_name(dtype),
          ", wanted torch.float16 or torch.bfloat16");
    check_dtype(master, ScalarType::Float, {"master", -1});
    check_contiguous(master, "master");
    return {empty_with(master, dtype), empty_with(master, ScalarType::Short)};
}

Tensor empty_join(const Tensor& weight, const Tensor& remainder) {
    check(weight.scalar_type() == ScalarType::Half || weight.scalar_type() == ScalarType::BFloat16, "weight: got ",
          dtype_name(weight.scalar_type()), ", wanted torch.float16 or torch.bfloat16");
    check_dtype(remainder, ScalarType::Short, {"remainder", -1});
    check_contiguous(weight, "weight");
    check_contiguous(remainder, "remainder");
    check(same_shape(weight, remainder), "remainder: got shape ", shape_text(remainder), ", wanted that of weight, ",
          shape_text(weight));
    return empty_with(weight, ScalarType::Float);
}

optim::cpu::Cast checked_cast(const Tensor& input, ScalarType dtype, const std::string& rounding, int64_t seed,
                              int64_t step, int64_t key) {
    const DType to = dtype_from(dtype);
    const auto in_word = [](int64_t number) {
        return number >= 0 && number <= static_cast<int64_t>(std::numeric_limits<uint32_t>::max());
    };
    check(in_word(step), "step: got ", step, ", wanted one of 32 bits without sign");
    check(in_word(key), "key: got ", key, ", wanted one of 32 bits without sign");
    check_contiguous(input, "input");
    return {dtype_of(input, "input"),    to,
            rounding_of(rounding),       static_cast<uint64_t>(seed),
            static_cast<uint32_t>(step), static_cast<uint32_t>(key)};
}

namespace {

void optim_step_(std::string rule, std::vector<Tensor> params, std::vector<Tensor> grads, std::vector<Tensor> masters,
                 std::vector<Tensor> states, std::vector<Tensor> emas, Tensor steps, Tensor rows, Tensor hyper,
                 std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf,
                 std::optional<Tensor> sum_of_squares, std::optional<double> max_grad_norm,
                 std::optional<double> ema_decay, std::string rounding, int64_t seed, bool zero_grad) {
    const int index = optim::rule_index(rule);
    const optim::Rounding mode = rounding_of(rounding);
    const optim::RuleInfo& info = optim::rules()[index];
    const OptimNumbers numbers = {grad_scale, found_inf, sum_of_squares, max_grad_norm, ema_decay, zero_grad};
    const auto tensors = step_tensors({params, masters, states, emas, steps, rows}, grads, hyper, numbers, info);

    optim::cpu::step(make_step(tensors, index, mode, seed, numbers), torch_parallel());
}

void write_(Tensor target, Tensor values) {
    check_write(target, values);
    std::memmove(target.mutable_data_ptr(), values.const_data_ptr(), static_cast<size_t>(target.numel()) * 8);
}

std::tuple<Tensor, Tensor> split_master(Tensor master, ScalarType dtype) {
    const auto [weight, remainder] = empty_split(master, dtype);
    optim::cpu::split(static_cast<const float*>(master.const_data_ptr()), dtype_from(dtype), weight.mutable_data_ptr(),
                      static_cast<int16_t*>(remainder.mutable_data_ptr()), master.numel(), torch_parallel());
    return {weight, remainder};
}

Tensor join_master(Tensor weight, Tensor remainder) {
    const Tensor master = empty_join(weight, remainder);
    optim::cpu::join(dtype_from(weight.scalar_type()), weight.const_data_ptr(),
                     static_cast<const int16_t*>(remainder.const_data_ptr()),
                     static_cast<float*>(master.mutable_data_ptr()), weight.numel(), torch_parallel());
    return master;
}

Tensor cast(Tensor input, ScalarType dtype, std::string rounding, int64_t seed, int64_t step, int64_t key) {
    const optim::cpu::Cast cast = checked_cast(input, dtype, rounding, seed, step, key);
    const Tensor output = empty_with(input, dtype);
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
    m.impl("write_", TORCH_BOX(&write_));
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
