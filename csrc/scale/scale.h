// Front door of the scale room: what a gradient check learns in one read, and how the loss scale moves.
#pragma once

#include <cstdint>

#include "core/cuda_status.h"
#include "core/dtype.h"
#include "core/parallel.h"
#include "math/loss_scale.h"
#include "scale/span_table.h"

namespace halfops::scale {

struct MutableSpan {
    void* data;
    int64_t numel;
    DType dtype;
};

// Where the statistics of a list go; all of it is written.
struct StatsOut {
    float* found_inf;        // 1 if any element is infinite or NaN, else 0
    double* sum_of_squares;  // over all elements; NaN if one is NaN, else infinity if one is infinite
    double* per_tensor;      // [count, 3]: sum of squares, 1 if non-finite, exact zeros (0 if not counted)
};

// The loss scale's four numbers where they live (math/loss_scale.h).
struct LossScalePointers {
    float* scale;
    int32_t* growth_tracker;
    int32_t* hysteresis_tracker;
    int64_t* skipped_steps;
};

namespace cpu {
// *found_inf becomes 1 if any element is infinite or NaN, else 0.
void nonfinite_check(const Span* tensors, int64_t count, const Parallel& parallel, float* found_inf);

void grad_stats(const Span* tensors, int64_t count, bool count_zeros, const Parallel& parallel, StatsOut out);

// x = round(x * inv_scale) for every element; the statistics are those of the new values.
void unscale(const MutableSpan* tensors, int64_t count, float inv_scale, bool count_zeros, const Parallel& parallel,
             StatsOut out);

void scale_update(LossScalePointers state, const float* found_inf, LossScalePolicy policy);
}  // namespace cpu

namespace cuda {
// The same bits on the device that is current: nothing waits for the host, everything can be captured in a CUDA graph.
// All pointers are device pointers, `stream` is a cudaStream_t. Writing the table (collective/upload.h), and keeping
// it and the workspace until the kernels are done, is the caller's.

// Whether this binary has kernels for the current device.
CudaStatus supported();

// Bytes for the sums on the way, aligned to 16.
int64_t workspace_bytes(const ChunkTable& sizes);

CudaStatus nonfinite_check(const SpanTable& list, void* stream, float* found_inf);

CudaStatus grad_stats(const SpanTable& list, bool count_zeros, void* workspace, void* stream, StatsOut out);

CudaStatus unscale(const SpanTable& list, const float* inv_scale, bool count_zeros, void* workspace, void* stream,
                   StatsOut out);

CudaStatus scale_update(LossScalePointers state, const float* found_inf, LossScalePolicy policy, void* stream);
}  // namespace cuda

}  // namespace halfops::scale
