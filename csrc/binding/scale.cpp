// The scale ops on CPU tensors.
#include "binding/scale.h"

namespace halfops::binding {

namespace {

const std::string kNoName;

bool usable(const Tensor& tensor, const Tensor& first) {
    const ScalarType type = tensor.scalar_type();
    const bool known = type == ScalarType::Half || type == ScalarType::BFloat16 || type == ScalarType::Float;
    return known && is_dense(tensor) && !is_freed(tensor) && tensor.is_cpu() == first.is_cpu() &&
           tensor.get_device_index() == first.get_device_index();
}

}  // namespace

std::vector<scale::Span> spans_of(const std::vector<Tensor>& tensors, const char* name) {
    check(!tensors.empty(), name, ": got an empty list, wanted at least one tensor");
    std::vector<scale::Span> spans;
    spans.reserve(tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
        if (!usable(tensors[i], tensors[0])) {  // names are written only when needed: lists may have 10,000 items
            const std::string each = item(name, static_cast<int64_t>(i));
            dtype_of(tensors[i], each);
            check_dense(tensors[i], each);
            check_memory(tensors[i], each);
            check_same_device(tensors[i], tensors[0], each, item(name, 0));
        }
        spans.push_back({tensors[i].const_data_ptr(), tensors[i].numel(), dtype_of(tensors[i], kNoName)});
    }
    return spans;
}

Stats empty_stats(const Tensor& like, int64_t count) {
    return {torch::stable::empty({}, ScalarType::Float, std::nullopt, like.device()),
            torch::stable::empty({}, ScalarType::Double, std::nullopt, like.device()),
            torch::stable::empty({count, 3}, ScalarType::Double, std::nullopt, like.device())};
}

scale::StatsOut pointers(const Stats& stats) {
    return {static_cast<float*>(std::get<0>(stats).mutable_data_ptr()),
            static_cast<double*>(std::get<1>(stats).mutable_data_ptr()),
            static_cast<double*>(std::get<2>(stats).mutable_data_ptr())};
}

namespace {

void check_counter(const Tensor& tensor, ScalarType type, const Tensor& like, const std::string& name) {
    check(tensor.numel() == 1 && tensor.scalar_type() == type, name, ": got ", dtype_name(tensor.scalar_type()),
          " of shape ", shape_text(tensor), ", wanted one ", dtype_name(type), " number");
    check_same_device(tensor, like, name, "scale");
}

// Not written as (x > low), which NaN and its negation would both fail.
void check_range(bool ok, const char* name, double got, const char* wanted) {
    check(ok, "scale_update_: ", name, ": got ", got, ", wanted ", wanted);
}

}  // namespace

std::vector<scale::Span> spans_to_unscale(const std::vector<Tensor>& tensors, const Tensor& inv_scale) {
    auto spans = spans_of(tensors, "tensors");
    check_scalar(inv_scale, tensors[0], "inv_scale");
    Disjoint memory(spans.size() + 1);
    for (size_t i = 0; i < spans.size(); ++i) memory.add(tensors[i], true, {"tensors", static_cast<int64_t>(i)});
    memory.add(inv_scale, false, {"inv_scale"});
    memory.check();
    return spans;
}

ScaleUpdate checked_scale_update(const ScaleUpdateArguments& a) {
    check_scalar(a.scale, a.scale, "scale");
    check_counter(a.growth_tracker, ScalarType::Int, a.scale, "growth_tracker");
    check_counter(a.hysteresis_tracker, ScalarType::Int, a.scale, "hysteresis_tracker");
    check_counter(a.skipped_steps, ScalarType::Long, a.scale, "skipped_steps");
    check_counter(a.found_inf, ScalarType::Float, a.scale, "found_inf");
    check_range(a.growth_factor > 1.0, "growth_factor", a.growth_factor, "a number above 1");
    check_range(a.backoff_factor > 0.0 && a.backoff_factor < 1.0, "backoff_factor", a.backoff_factor,
                "a number in (0, 1)");
    check_range(a.growth_interval >= 1 && a.growth_interval <= INT32_MAX, "growth_interval",
                static_cast<double>(a.growth_interval), "a 32-bit count of at least 1");
    check_range(a.hysteresis >= 1 && a.hysteresis <= INT32_MAX, "hysteresis", static_cast<double>(a.hysteresis),
                "a 32-bit count of at least 1");
    check_range(a.min_scale > 0.0, "min_scale", a.min_scale, "a number above 0");
    check_range(a.max_scale >= a.min_scale, "max_scale", a.max_scale, "a number not below min_scale");
    Disjoint memory(5);
    memory.add(a.scale, true, {"scale"});
    memory.add(a.growth_tracker, true, {"growth_tracker"});
    memory.add(a.hysteresis_tracker, true, {"hysteresis_tracker"});
    memory.add(a.skipped_steps, true, {"skipped_steps"});
    memory.add(a.found_inf, false, {"found_inf"});
    memory.check();

    const scale::LossScalePointers state = {static_cast<float*>(a.scale.mutable_data_ptr()),
                                            static_cast<int32_t*>(a.growth_tracker.mutable_data_ptr()),
                                            static_cast<int32_t*>(a.hysteresis_tracker.mutable_data_ptr()),
                                            static_cast<int64_t*>(a.skipped_steps.mutable_data_ptr())};
    const LossScalePolicy policy = {a.growth_factor,
                                    a.backoff_factor,
                                    static_cast<int32_t>(a.growth_interval),
                                    static_cast<int32_t>(a.hysteresis),
                                    static_cast<float>(a.min_scale),
                                    static_cast<float>(a.max_scale)};
    return {state, static_cast<const float*>(a.found_inf.const_data_ptr()), policy};
}

namespace {

Tensor nonfinite_check(std::vector<Tensor> tensors) {
    const auto spans = spans_of(tensors, "tensors");
    Tensor found = torch::stable::empty({}, ScalarType::Float, std::nullopt, tensors[0].device());
    scale::cpu::nonfinite_check(spans.data(), static_cast<int64_t>(spans.size()), torch_parallel(),
                                static_cast<float*>(found.mutable_data_ptr()));
    return found;
}

Stats grad_stats(std::vector<Tensor> tensors, bool count_zeros) {
    const auto spans = spans_of(tensors, "tensors");
    const auto count = static_cast<int64_t>(spans.size());
    const Stats stats = empty_stats(tensors[0], count);
    scale::cpu::grad_stats(spans.data(), count, count_zeros, torch_parallel(), pointers(stats));
    return stats;
}

Stats unscale_(std::vector<Tensor> tensors, Tensor inv_scale, bool count_zeros) {
    const auto spans = spans_to_unscale(tensors, inv_scale);
    const auto count = static_cast<int64_t>(spans.size());
    const Stats stats = empty_stats(tensors[0], count);
    std::vector<scale::MutableSpan> targets;
    targets.reserve(spans.size());
    for (int64_t i = 0; i < count; ++i) {
        targets.push_back({tensors[i].mutable_data_ptr(), spans[i].numel, spans[i].dtype});
    }
    const float factor = *static_cast<const float*>(inv_scale.const_data_ptr());
    scale::cpu::unscale(targets.data(), count, factor, count_zeros, torch_parallel(), pointers(stats));
    return stats;
}

void scale_update_(Tensor scale, Tensor growth_tracker, Tensor hysteresis_tracker, Tensor skipped_steps,
                   Tensor found_inf, double growth_factor, double backoff_factor, int64_t growth_interval,
                   int64_t hysteresis, double min_scale, double max_scale) {
    const ScaleUpdate update =
        checked_scale_update({scale, growth_tracker, hysteresis_tracker, skipped_steps, found_inf, growth_factor,
                              backoff_factor, growth_interval, hysteresis, min_scale, max_scale});
    scale::cpu::scale_update(update.state, update.found_inf, update.policy);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CPU, m) {
    m.impl("nonfinite_check", TORCH_BOX(&nonfinite_check));
    m.impl("grad_stats", TORCH_BOX(&grad_stats));
    m.impl("unscale_", TORCH_BOX(&unscale_));
    m.impl("scale_update_", TORCH_BOX(&scale_update_));
}

}  // namespace halfops::binding
