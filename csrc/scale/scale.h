// Front door of the scale room: what a gradient check learns in one read.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/parallel.h"

namespace halfops::scale {

// One tensor, contiguous. The dtype is its own, so that a list may mix them.
struct Span {
    const void* data;
    int64_t numel;
    DType dtype;
};

namespace cpu {
// *found_inf becomes 1 if any element is infinite or NaN, else 0.
void nonfinite_check(const Span* tensors, int64_t count, const Parallel& parallel, float* found_inf);
}  // namespace cpu

namespace cuda {
// Same on the device that is current. `spans` and `found_inf` are device pointers; nothing waits for the host.
// stream is a cudaStream_t; the status is a cudaError_t with its text in *message when it is not 0.
int nonfinite_check(const Span* spans, int64_t count, int64_t numel, void* stream, float* found_inf,
                    const char** message);
}  // namespace cuda

}  // namespace halfops::scale
