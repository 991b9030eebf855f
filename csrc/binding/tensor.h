// Torch's tensors as this project's binding sees them: short names, dtype translation, checks that are sentences.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"

namespace halfops::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void run_on_torch_threads(int64_t n, int64_t grain, Parallel::Body body, void* context) {
    torch::stable::parallel_for(0, n, grain, [=](int64_t begin, int64_t end) { body(begin, end, context); });
}

inline Parallel torch_parallel() { return {&run_on_torch_threads}; }

std::string dtype_name(ScalarType type);       // "torch.float16"
std::string shape_text(const Tensor& tensor);  // "[3, 4]"

// Halfops' own dtype, or an error that names the argument.
DType dtype_of(const Tensor& tensor, const std::string& name);

void check_contiguous(const Tensor& tensor, const std::string& name);
// Dense: the elements fill their memory without gaps or overlap, in any order of the dimensions. Element-wise ops may
// take such a tensor as flat memory.
bool is_dense(const Tensor& tensor);
void check_dense(const Tensor& tensor, const std::string& name);
void check_same_device(const Tensor& tensor, const Tensor& first, const std::string& name,
                       const std::string& first_name);
// One float32 number on the device of `like`.
void check_scalar(const Tensor& tensor, const Tensor& like, const std::string& name);

// Memory that must not overlap, because an op writes to it: add() every tensor, then check().
class Disjoint {
  public:
    // `name` must outlive this; an index makes it name[index].
    void add(const Tensor& tensor, const char* name, int64_t index = -1);
    void check();

  private:
    struct Extent {
        const char* begin;
        const char* end;
        const char* name;
        int64_t index;
    };
    std::vector<Extent> extents_;
};

inline std::string item(const std::string& list, int64_t index) { return list + "[" + std::to_string(index) + "]"; }

}  // namespace halfops::binding
