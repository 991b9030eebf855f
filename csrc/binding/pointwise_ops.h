// The pointwise ops, one body for every device: checks, outputs, and the loop that an op is.
//
// `Engine` runs on one device: Engine(op, a tensor there), and the room's element-wise functions without what only a
// device has. It is made after the checks and before anything is allocated.
#pragma once

#include <tuple>

#include "binding/linear.h"
#include "pointwise/pointwise.h"

namespace halfops::binding {

template <class Engine>
struct PointwiseOps {
    static Tensor activation(Tensor preact, std::string activation) {
        const Activation which = activation_of(activation);
        const DType dtype = dtype_of(preact, "preact");
        check_memory(preact, "preact");
        const Engine engine("activation", preact);
        const Tensor z = torch::stable::contiguous(preact);
        Tensor output = like(z);
        engine.activate(which, dtype, z.const_data_ptr(), z.numel(), output.mutable_data_ptr());
        return output;
    }

    static Tensor activation_backward(Tensor grad_output, Tensor preact, std::string activation) {
        const Activation which = activation_of(activation);
        const DType dtype = dtype_of(grad_output, "grad_output");
        check_elementwise(preact, grad_output, "preact", "grad_output");
        check_memory(grad_output, "grad_output");
        check_memory(preact, "preact");
        const Engine engine("activation_backward", grad_output);
        const Tensor dy = torch::stable::contiguous(grad_output), z = torch::stable::contiguous(preact);
        Tensor grad = like(z);
        engine.activate_backward(which, dtype, dy.const_data_ptr(), z.const_data_ptr(), z.numel(),
                                 grad.mutable_data_ptr());
        return grad;
    }

    static Tensor gated_activation(Tensor gate, Tensor up, std::string activation) {
        const Activation which = activation_of(activation);
        const DType dtype = dtype_of(gate, "gate");
        check_elementwise(up, gate, "up", "gate");
        check_memory(gate, "gate");
        check_memory(up, "up");
        const Engine engine("gated_activation", gate);
        const Tensor g = torch::stable::contiguous(gate), u = torch::stable::contiguous(up);
        Tensor output = like(g);
        engine.gate(which, dtype, g.const_data_ptr(), u.const_data_ptr(), g.numel(), output.mutable_data_ptr());
        return output;
    }

    static std::tuple<Tensor, Tensor> gated_activation_backward(Tensor grad_output, Tensor gate, Tensor up,
                                                                std::string activation) {
        const Activation which = activation_of(activation);
        const DType dtype = dtype_of(grad_output, "grad_output");
        check_elementwise(gate, grad_output, "gate", "grad_output");
        check_elementwise(up, grad_output, "up", "grad_output");
        check_memory(grad_output, "grad_output");
        check_memory(gate, "gate");
        check_memory(up, "up");
        const Engine engine("gated_activation_backward", grad_output);
        const Tensor dh = torch::stable::contiguous(grad_output);
        const Tensor g = torch::stable::contiguous(gate), u = torch::stable::contiguous(up);
        Tensor grad_gate = like(g), grad_up = like(g);
        engine.gate_backward(which, dtype, dh.const_data_ptr(), g.const_data_ptr(), u.const_data_ptr(), g.numel(),
                             grad_gate.mutable_data_ptr(), grad_up.mutable_data_ptr());
        return {grad_gate, grad_up};
    }

  private:
    static Tensor like(const Tensor& z) { return new_empty(shape_of(z), z.scalar_type(), z); }
};

template <class Engine, class Library>
void register_pointwise(Library& m) {
    using Ops = PointwiseOps<Engine>;
    m.impl("activation", TORCH_BOX(&Ops::activation));
    m.impl("activation_backward", TORCH_BOX(&Ops::activation_backward));
    m.impl("gated_activation", TORCH_BOX(&Ops::gated_activation));
    m.impl("gated_activation_backward", TORCH_BOX(&Ops::gated_activation_backward));
}

}  // namespace halfops::binding
