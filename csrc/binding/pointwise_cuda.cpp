// The pointwise ops on CUDA tensors. Compiled only in CUDA builds (setup.py: *_cuda.cpp).
#include "binding/device.h"
#include "binding/pointwise_ops.h"

namespace halfops::binding {
namespace {

class CudaPointwise {
  public:
    CudaPointwise(const char* op, const Tensor& like)
        : device_(op, like.get_device_index(), &pointwise::cuda::supported) {}

    void activate(Activation which, DType dtype, const void* z, int64_t n, void* y) const {
        device_.check(pointwise::cuda::activate(which, dtype, z, n, device_.stream(), y));
    }
    void activate_backward(Activation which, DType dtype, const void* dy, const void* z, int64_t n, void* dz) const {
        device_.check(pointwise::cuda::activate_backward(which, dtype, dy, z, n, device_.stream(), dz));
    }
    void gate(Activation which, DType dtype, const void* gate, const void* up, int64_t n, void* h) const {
        device_.check(pointwise::cuda::gate(which, dtype, gate, up, n, device_.stream(), h));
    }
    void gate_backward(Activation which, DType dtype, const void* dh, const void* gate, const void* up, int64_t n,
                       void* d_gate, void* d_up) const {
        device_.check(pointwise::cuda::gate_backward(which, dtype, dh, gate, up, n, device_.stream(), d_gate, d_up));
    }

  private:
    OnDevice device_;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CUDA, m) { register_pointwise<CudaPointwise>(m); }

}  // namespace halfops::binding
