// The pointwise ops on CPU tensors.
#include "binding/pointwise_ops.h"

namespace halfops::binding {
namespace {

struct CpuPointwise {
    CpuPointwise(const char*, const Tensor&) {}

    void activate(Activation which, DType dtype, const void* z, int64_t n, void* y) const {
        pointwise::cpu::activate(which, dtype, z, n, torch_parallel(), y);
    }
    void activate_backward(Activation which, DType dtype, const void* dy, const void* z, int64_t n, void* dz) const {
        pointwise::cpu::activate_backward(which, dtype, dy, z, n, torch_parallel(), dz);
    }
    void gate(Activation which, DType dtype, const void* gate, const void* up, int64_t n, void* h) const {
        pointwise::cpu::gate(which, dtype, gate, up, n, torch_parallel(), h);
    }
    void gate_backward(Activation which, DType dtype, const void* dh, const void* gate, const void* up, int64_t n,
                       void* d_gate, void* d_up) const {
        pointwise::cpu::gate_backward(which, dtype, dh, gate, up, n, torch_parallel(), d_gate, d_up);
    }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CPU, m) { register_pointwise<CpuPointwise>(m); }

}  // namespace halfops::binding
