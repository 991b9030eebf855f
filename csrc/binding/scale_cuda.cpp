// The scale ops on CUDA tensors. Compiled only in CUDA builds (setup.py: *_cuda.cpp).
#include "binding/device.h"
#include "binding/scale.h"

namespace halfops::binding {
namespace {

// A list as the kernels read it; addresses and words must outlive the launches.
struct ListOnDevice {
    Tensor addresses, words;
    scale::SpanTable table;

    ListOnDevice(const std::vector<scale::Span>& spans, const OnDevice& device) {
        const auto count = static_cast<int64_t>(spans.size());
        ChunkTable sizes;
        words = device.words(scale::span_words(spans.data(), count, &sizes));
        addresses = device.words(scale::span_addresses(spans.data(), count));
        table = scale::span_table_at(words_of(addresses), words_of(words), sizes);
    }
};

Tensor nonfinite_check(std::vector<Tensor> tensors) {
    const auto spans = spans_of(tensors, "tensors");
    const OnDevice device("nonfinite_check", tensors[0].get_device_index(), &scale::cuda::supported);
    const ListOnDevice list(spans, device);
    Tensor found = torch::stable::empty({}, ScalarType::Float, std::nullopt, tensors[0].device());
    device.check(
        scale::cuda::nonfinite_check(list.table, device.stream(), static_cast<float*>(found.mutable_data_ptr())));
    return found;
}

Stats grad_stats(std::vector<Tensor> tensors, bool count_zeros) {
    const auto spans = spans_of(tensors, "tensors");
    const OnDevice device("grad_stats", tensors[0].get_device_index(), &scale::cuda::supported);
    const ListOnDevice list(spans, device);
    const Stats stats = empty_stats(tensors[0], static_cast<int64_t>(spans.size()));
    const Tensor workspace = device.bytes(scale::cuda::workspace_bytes(list.table.chunks));
    device.check(scale::cuda::grad_stats(list.table, count_zeros, workspace.mutable_data_ptr(), device.stream(),
                                         pointers(stats)));
    return stats;
}

Stats unscale_(std::vector<Tensor> tensors, Tensor inv_scale, bool count_zeros) {
    const auto spans = spans_to_unscale(tensors, inv_scale);
    const OnDevice device("unscale_", tensors[0].get_device_index(), &scale::cuda::supported);
    const ListOnDevice list(spans, device);
    const Stats stats = empty_stats(tensors[0], static_cast<int64_t>(spans.size()));
    const Tensor workspace = device.bytes(scale::cuda::workspace_bytes(list.table.chunks));
    device.check(scale::cuda::unscale(list.table, static_cast<const float*>(inv_scale.const_data_ptr()), count_zeros,
                                      workspace.mutable_data_ptr(), device.stream(), pointers(stats)));
    return stats;
}

void scale_update_(Tensor scale, Tensor growth_tracker, Tensor hysteresis_tracker, Tensor skipped_steps,
                   Tensor found_inf, double growth_factor, double backoff_factor, int64_t growth_interval,
                   int64_t hysteresis, double min_scale, double max_scale) {
    const ScaleUpdate update =
        checked_scale_update({scale, growth_tracker, hysteresis_tracker, skipped_steps, found_inf, growth_factor,
                              backoff_factor, growth_interval, hysteresis, min_scale, max_scale});
    const OnDevice device("scale_update_", scale.get_device_index(), &scale::cuda::supported);
    device.check(scale::cuda::scale_update(update.state, update.found_inf, update.policy, device.stream()));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CUDA, m) {
    m.impl("nonfinite_check", TORCH_BOX(&nonfinite_check));
    m.impl("grad_stats", TORCH_BOX(&grad_stats));
    m.impl("unscale_", TORCH_BOX(&unscale_));
    m.impl("scale_update_", TORCH_BOX(&scale_update_));
}

}  // namespace halfops::binding
