// The linear ops on CUDA tensors. Compiled only in CUDA builds (setup.py: *_cuda.cpp).
#include "binding/device.h"
#include "binding/linear_ops.h"
#include "pointwise/pointwise.h"

namespace halfops::binding {
namespace {

constexpr int kNotSupported = 801;  // cudaErrorNotSupported

thread_local linear::cuda::Plan last_plan;

// One kernel takes a whole problem, and so leaves its sums and statistics behind.
class CudaLinear {
  public:
    CudaLinear(const char* op, const Tensor& like)
        : op_(op), index_(like.get_device_index()), device_(op, index_, &linear::cuda::supported) {
        check(like.scalar_type() != ScalarType::Float, op,
              ": got torch.float32 on a GPU, wanted torch.float16 or torch.bfloat16; the functions of "
              "halfops.functional take it, with torch's own ops");
    }

    void gemm(const linear::Problem& problem) const {
        struct Lent {
            const OnDevice& device;
            Tensor memory;
        } lent{device_, {}};
        const auto lend = [](int64_t bytes, void* context) {
            Lent& to = *static_cast<Lent*>(context);
            to.memory = to.device.bytes(bytes);
            return to.memory.mutable_data_ptr();
        };
        const CudaStatus status = linear::cuda::gemm(problem, {lend, &lent}, device_.stream(), &last_plan);
        check(status.code != kNotSupported || problem.a.dtype != DType::bf16, op_, ": bfloat16: GPU ", index_, " (",
              status.text == nullptr ? "of an older architecture" : status.text,
              ") has no bf16 units, wanted float16; convert the model with .half() and scale its loss "
              "(halfops.amp.GradScaler)");
        device_.check(status);
    }

    void column_sums(const linear::Matrix& m, void* sums) const {
        const Tensor workspace = device_.bytes(pointwise::cuda::column_sums_workspace_bytes(m.rows, m.cols));
        device_.check(pointwise::cuda::column_sums(m.dtype, m.data, m.rows, m.cols, m.row_stride,
                                                   workspace.mutable_data_ptr(), device_.stream(), sums));
    }

  private:
    const char* op_;
    int32_t index_;
    OnDevice device_;
};

std::string describe_last_plan() { return last_plan.policy < 0 ? "" : linear::cuda::describe(last_plan); }

const bool kInstalled = [] {
    policies() = {&linear::cuda::policies, &linear::cuda::force_policy, &describe_last_plan};
    return true;
}();

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CUDA, m) { register_linear<CudaLinear>(m); }

}  // namespace halfops::binding
