// The scale ops on CPU tensors.
#include "scale/scale.h"

#include "binding/scale.h"

namespace halfops::binding {

std::vector<scale::Span> spans_of(const std::vector<Tensor>& tensors, const std::string& name) {
    check(!tensors.empty(), name, ": got an empty list, wanted at least one tensor");
    std::vector<scale::Span> spans;
    spans.reserve(tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
        const std::string each = item(name, static_cast<int64_t>(i));
        const DType dtype = dtype_of(tensors[i], each);
        check_contiguous(tensors[i], each);
        check_same_device(tensors[i], tensors[0], each, item(name, 0));
        spans.push_back({tensors[i].const_data_ptr(), tensors[i].numel(), dtype});
    }
    return spans;
}

namespace {

Tensor nonfinite_check(std::vector<Tensor> tensors) {
    const auto spans = spans_of(tensors, "tensors");
    Tensor found = torch::stable::empty({}, ScalarType::Float, std::nullopt, tensors[0].device());
    scale::cpu::nonfinite_check(spans.data(), static_cast<int64_t>(spans.size()), torch_parallel(),
                                static_cast<float*>(found.mutable_data_ptr()));
    return found;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CPU, m) { m.impl("nonfinite_check", TORCH_BOX(&nonfinite_check)); }

}  // namespace halfops::binding
