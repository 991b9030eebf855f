#include "binding/tensor.h"

#include <algorithm>

namespace halfops::binding {

std::string dtype_name(ScalarType type) {
    switch (type) {
        case ScalarType::Half:
            return "torch.float16";
        case ScalarType::BFloat16:
            return "torch.bfloat16";
        case ScalarType::Float:
            return "torch.float32";
        case ScalarType::Double:
            return "torch.float64";
        case ScalarType::Short:
            return "torch.int16";
        case ScalarType::Int:
            return "torch.int32";
        case ScalarType::Long:
            return "torch.int64";
        case ScalarType::Bool:
            return "torch.bool";
        case ScalarType::ComplexFloat:
            return "torch.complex64";
        case ScalarType::ComplexDouble:
            return "torch.complex128";
        default:
            return "another dtype (ScalarType " + std::to_string(static_cast<int>(type)) + ")";
    }
}

std::string shape_text(const Tensor& tensor) {
    std::string text = "[";
    for (int64_t d = 0; d < tensor.dim(); ++d) text += (d == 0 ? "" : ", ") + std::to_string(tensor.size(d));
    return text + "]";
}

DType dtype_of(const Tensor& tensor, const std::string& name) {
    check(tensor.defined(), name, ": got None, wanted a tensor");
    switch (tensor.scalar_type()) {
        case ScalarType::Half:
            return DType::f16;
        case ScalarType::BFloat16:
            return DType::bf16;
        case ScalarType::Float:
            return DType::f32;
        default:
            fail(name, ": got ", dtype_name(tensor.scalar_type()),
                 ", wanted torch.float16, torch.bfloat16 or torch.float32; convert it with .to(...)");
    }
}

void check_contiguous(const Tensor& tensor, const std::string& name) {
    check(tensor.is_contiguous(), name, ": got a non-contiguous tensor of shape ", shape_text(tensor),
          ", wanted a contiguous one; call .contiguous() on it");
}

bool is_dense(const Tensor& tensor) {
    if (tensor.is_contiguous()) return true;
    const auto sizes = tensor.sizes();
    const auto strides = tensor.strides();
    std::vector<size_t> order;
    for (size_t d = 0; d < sizes.size(); ++d) {
        if (sizes[d] != 1) order.push_back(d);
    }
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return strides[a] < strides[b]; });
    int64_t expected = 1;
    for (const size_t d : order) {
        if (strides[d] != expected) return false;
        expected *= sizes[d];
    }
    return true;
}

void check_dense(const Tensor& tensor, const std::string& name) {
    check(
        is_dense(tensor), name, ": got a tensor of shape ", shape_text(tensor),
        " whose elements do not fill their memory (sliced or expanded), wanted a dense one; call .contiguous() on it");
}

bool is_freed(const Tensor& tensor) {
    int64_t bytes = 0;  // of the storage: a pointer into it says little, because a view adds its offset to nothing
    return tensor.numel() > 0 && aoti_torch_get_storage_size(tensor.get(), &bytes) == 0 && bytes == 0;
}

void check_memory(const Tensor& tensor, const std::string& name) {
    check(!is_freed(tensor), name, ": got a tensor of shape ", shape_text(tensor),
          " whose storage was freed, wanted one with its elements in memory; gather it (unshard) before the call");
}

void Disjoint::add(const void* data, int64_t bytes, bool written, const Place& place) {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    if (bytes > 0) extents_.push_back({begin, begin + static_cast<uintptr_t>(bytes), written, place});
}

void Disjoint::add(const Tensor& tensor, bool written, const Place& place) {
    if (tensor.numel() == 0) return;
    int64_t last = 0;
    const auto sizes = tensor.sizes();
    const auto strides = tensor.strides();
    for (size_t d = 0; d < sizes.size(); ++d) last += (sizes[d] - 1) * strides[d];
    add(tensor.const_data_ptr(), (last + 1) * static_cast<int64_t>(tensor.element_size()), written, place);
}

void Disjoint::check() {
    std::sort(extents_.begin(), extents_.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
    const Extent* last = nullptr;          // of those seen, the one that reaches farthest
    const Extent* last_written = nullptr;  // of the written ones seen
    for (const Extent& extent : extents_) {
        const Extent* other = extent.written ? last : last_written;
        if (other != nullptr && extent.begin < other->end) {
            fail(extent.place.text(), ": shares memory with ", other->place.text(),
                 ", wanted separate tensors; pass each one once, or .clone() one of the two");
        }
        if (last == nullptr || extent.end > last->end) last = &extent;
        if (extent.written && (last_written == nullptr || extent.end > last_written->end)) last_written = &extent;
    }
}

void check_same_device(const Tensor& tensor, const Tensor& first, const std::string& name,
                       const std::string& first_name) {
    const auto a = tensor.device(), b = first.device();
    check(a.type() == b.type() && a.index() == b.index(), name, ": is on another device than ", first_name,
          "; move both to one device with .to(device)");
}

void check_scalar(const Tensor& tensor, const Tensor& like, const std::string& name) {
    check(tensor.numel() == 1 && tensor.scalar_type() == ScalarType::Float, name, ": got ",
          dtype_name(tensor.scalar_type()), " of shape ", shape_text(tensor), ", wanted one torch.float32 number");
    check_same_device(tensor, like, name, "the tensors");
}

}  // namespace halfops::binding
