#include "binding/tensor.h"

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
