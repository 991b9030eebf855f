// From the host to the device without a copy engine: the bytes travel as arguments of a kernel.
//
// A copy from pageable memory makes the host wait, one from pinned memory must keep that memory alive, and a CUDA graph
// would read it again at every replay. A kernel's arguments are copied at the launch, into the graph too.
#pragma once

#include <cstdint>

#include "core/cuda_status.h"

namespace halfops {

// words[0 .. count) to the device memory at `target`, on a cudaStream_t.
CudaStatus upload(int64_t* target, const int64_t* words, int64_t count, void* stream);

// Whether the stream is being captured into a CUDA graph, which runs what is launched now, later, and again and again.
bool is_capturing(void* stream);

}  // namespace halfops
