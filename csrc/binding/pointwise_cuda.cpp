// The pointwise ops on CUDA tensors. Compiled only in CUDA builds (setup.py: *_cuda.cpp).
#include "pointwise/pointwise.h"

#include <tuple>

#include "binding/device.h"
#include "binding/linear.h"

namespace halfops::binding {
namespace {

OnDevice device_of(const char* op, const Tensor& tensor) {
    return OnDevice(op, tensor.get_device_index(), &pointwise::cuda::supported);
}

// Contiguous, whatever strides `like` has.
Tensor result_like(const Tensor& like) {
    return torch::stable::empty(shape_of(like), like.scalar_type(), std::nullopt, like.device());
}

Tensor activation_forward(Tensor preact, std::string activation) {
    const Activation which = activation_of(activation);
    const DType dtype = dtype_of(preact, "preact");
    const OnDevice device = device_of("activation", preact);
    const Tensor z = torch::stable::contiguous(preact);
    Tensor output = result_like(z);
    device.check(pointwise::cuda::activate(which, dtype, z.const_data_ptr(), z.numel(), device.stream(),
                                           output.mutable_data_ptr()));
    return output;
}

Tensor activation_backward(Tensor grad_output, Tensor preact, std::string activation) {
    const Activation which = activation_of(activation);
    const DType dtype = dtype_of(grad_output, "grad_output");
    check_elementwise(preact, grad_output, "preact", "grad_output");
    const OnDevice device = device_of("activation_backward", grad_output);
    const Tensor dy = torch::stable::contiguous(grad_output), z = torch::stable::contiguous(preact);
    Tensor grad = result_like(z);
    device.check(pointwise::cuda::activate_backward(which, dtype, dy.const_data_ptr(), z.const_data_ptr(), z.numel(),
                                                    device.stream(), grad.mutable_data_ptr()));
    return grad;
}

Tensor gated_activation(Tensor gate, Tensor up, std::string activation) {
    const Activation which = activation_of(activation);
    const DType dtype = dtype_of(gate, "gate");
    check_elementwise(up, gate, "up", "gate");
    const OnDevice device = device_of("gated_activation", gate);
    const Tensor g = torch::stable::contiguous(gate), u = torch::stable::contiguous(up);
    Tensor output = result_like(g);
    device.check(pointwise::cuda::gate(which, dtype, g.const_data_ptr(), u.const_data_ptr(), g.numel(), device.stream(),
                                       output.mutable_data_ptr()));
    return output;
}

std::tuple<Tensor, Tensor> gated_activation_backward(Tensor grad_output, Tensor gate, Tensor up,
                                                     std::string activation) {
    const Activation which = activation_of(activation);
    const DType dtype = dtype_of(grad_output, "grad_output");
    check_elementwise(gate, grad_output, "gate", "grad_output");
    check_elementwise(up, grad_output, "up", "grad_output");
    const OnDevice device = device_of("gated_activation_backward", grad_output);
    const Tensor dh = torch::stable::contiguous(grad_output);
    const Tensor g = torch::stable::contiguous(gate), u = torch::stable::contiguous(up);
    Tensor grad_gate = result_like(g), grad_up = result_like(g);
    device.check(pointwise::cuda::gate_backward(which, dtype, dh.const_data_ptr(), g.const_data_ptr(),
                                                u.const_data_ptr(), g.numel(), device.stream(),
                                                grad_gate.mutable_data_ptr(), grad_up.mutable_data_ptr()));
    return {grad_gate, grad_up};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CUDA, m) {
    m.impl("activation", TORCH_BOX(&activation_forward));
    m.impl("activation_backward", TORCH_BOX(&activation_backward));
    m.impl("gated_activation", TORCH_BOX(&gated_activation));
    m.impl("gated_activation_backward", TORCH_BOX(&gated_activation_backward));
}

}  // namespace halfops::binding
