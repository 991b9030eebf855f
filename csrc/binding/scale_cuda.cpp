// The scale ops on CUDA tensors. Compiled only in CUDA builds (setup.py: *_cuda.cpp).
#include <torch/csrc/stable/accelerator.h>

#include <cstring>

#include "binding/cuda_runtime.h"
#include "binding/scale.h"

namespace halfops::binding {
namespace {

// A small table as bytes on the device: a CPU tensor and torch's own copy. Its pageable copy is staged by the driver
// before it returns, so the host table may go at once.
template <class Row>
Tensor on_device(const std::vector<Row>& rows, const Tensor& like) {
    const auto bytes = static_cast<int64_t>(rows.size() * sizeof(Row));
    Tensor host = torch::stable::empty({bytes}, ScalarType::Byte);
    std::memcpy(host.mutable_data_ptr(), rows.data(), static_cast<size_t>(bytes));
    Tensor device = torch::stable::empty({bytes}, ScalarType::Byte, std::nullopt, like.device());
    torch::stable::copy_(device, host);
    return device;
}

Tensor nonfinite_check(std::vector<Tensor> tensors) {
    const auto spans = spans_of(tensors, "tensors");
    const torch::stable::accelerator::DeviceGuard guard(tensors[0].get_device_index());
    int64_t numel = 0;
    for (const auto& span : spans) numel += span.numel;
    const Tensor table = on_device(spans, tensors[0]);
    Tensor found = torch::stable::empty({}, ScalarType::Float, std::nullopt, tensors[0].device());
    const char* message = nullptr;
    const int status = scale::cuda::nonfinite_check(
        static_cast<const scale::Span*>(table.const_data_ptr()), static_cast<int64_t>(spans.size()), numel,
        current_cuda_stream(tensors[0]), static_cast<float*>(found.mutable_data_ptr()), &message);
    check_cuda(status, message, "nonfinite_check");
    return found;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CUDA, m) { m.impl("nonfinite_check", TORCH_BOX(&nonfinite_check)); }

}  // namespace halfops::binding
