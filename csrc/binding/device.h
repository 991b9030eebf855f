// What the CUDA registrations need from torch: its current device and stream, and its memory.
//
// The stream's symbol lives in libtorch_cuda, which a CPU-only torch does not have. Looking it up when the first CUDA
// tensor arrives, instead of linking to it, is what lets one binary import on both.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "binding/tensor.h"
#include "core/cuda_status.h"

namespace halfops::binding {

// Makes a device current for as long as it lives, after a check that this binary has kernels for it.
class OnDevice {
  public:
    OnDevice(const char* op, int32_t index, CudaStatus (*supported)());

    // torch's current stream on the device, a cudaStream_t. Asked at each use: it may change between two launches.
    void* stream() const;

    bool is_capturing() const;  // into a CUDA graph

    // Memory from torch's allocator, at least 16-byte aligned. It is reused only by what comes later on the stream, so
    // it may be let go as soon as the kernels that use it are launched.
    Tensor bytes(int64_t count) const;

    // Words on the device, without a copy that the host would wait for (collective/upload.h).
    Tensor words(const std::vector<int64_t>& host) const;
    void write(const Tensor& words, const int64_t* host, int64_t count) const;

    void check(CudaStatus status) const;

  private:
    const char* op_;
    int32_t index_;
    torch::stable::accelerator::DeviceGuard guard_;
};

inline const int64_t* words_of(const Tensor& words) { return static_cast<const int64_t*>(words.const_data_ptr()); }

}  // namespace halfops::binding
