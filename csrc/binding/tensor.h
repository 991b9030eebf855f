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
// Elements without memory: storage that was freed (resize_(0), as sharded training does with weights at rest).
bool is_freed(const Tensor& tensor);
void check_memory(const Tensor& tensor, const std::string& name);
void check_same_device(const Tensor& tensor, const Tensor& first, const std::string& name,
                       const std::string& first_name);
// One float32 number on the device of `like`.
void check_scalar(const Tensor& tensor, const Tensor& like, const std::string& name);

inline std::string item(const std::string& list, int64_t index) { return list + "[" + std::to_string(index) + "]"; }

// An argument, or a tensor's place in a list. It becomes text only in an error: a step may have ten thousand tensors.
struct Place {
    const char* name;  // must outlive this
    int64_t index = -1;
    std::string text() const { return index < 0 ? name : item(name, index); }
};

// What an op writes must not share memory with anything else that it writes or reads: add() everything, then check().
class Disjoint {
  public:
    explicit Disjoint(size_t room) { extents_.reserve(room); }
    void add(const void* data, int64_t bytes, bool written, const Place& place);
    void add(const Tensor& tensor, bool written, const Place& place);
    void check();

  private:
    struct Extent {
        uintptr_t begin, end;
        bool written;
        Place place;
    };
    std::vector<Extent> extents_;
};

}  // namespace halfops::binding
