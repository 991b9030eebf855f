// What the copy engine is told of a tensor: 128 bytes that the driver fills in (collective/tensor_map.cuh).
#pragma once

#include <cstdint>

namespace halfops::ptx {

struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

}  // namespace halfops::ptx
