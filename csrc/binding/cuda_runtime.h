// What the CUDA registrations need from torch: the current stream, found by name at run time.
//
// The symbol lives in libtorch_cuda, which a CPU-only torch does not have. Looking it up when the first CUDA tensor
// arrives, instead of linking to it, is what lets one binary import on both.
#pragma once

#include "binding/tensor.h"

namespace halfops::binding {

void* current_cuda_stream(const Tensor& tensor);  // a cudaStream_t
void check_cuda(int status, const char* message, const char* op);

}  // namespace halfops::binding
