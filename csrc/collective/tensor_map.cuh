// Descriptions of tensors for the copy engine (ptx/tma.cuh), made on the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "ptx/tensor_map.h"

namespace halfops {

enum class Swizzle : int { none, bytes_64, bytes_128 };

// A tensor of three dimensions whose first one's elements lie side by side, and the box of it that one copy moves.
struct TensorBox {
    const void* data;  // at a multiple of 16 bytes
    DType dtype;
    int64_t extent[3];  // elements, 1 to 2^32
    int64_t pitch[2];   // bytes from one to the next in dimensions 1 and 2: multiples of 16, less than 2^40
    int box[3];  // elements, 1 to 256; the first one's bytes a multiple of 16, and with a swizzle no more than its
    Swizzle swizzle;
};

// cudaErrorInvalidValue where the driver refuses the description, cudaErrorNotSupported where it knows no such thing.
cudaError_t make_tensor_map(const TensorBox& tensor, ptx::TensorMap* map);

}  // namespace halfops
