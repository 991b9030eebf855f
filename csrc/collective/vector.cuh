// 16 bytes at a time, and the scalar elements before and after them.
#pragma once

#include <cstdint>

namespace halfops {

struct alignas(16) Vector16 {
    uint32_t word[4];
};

// Elements before the first 16-byte boundary: loads start there whatever the tensor's alignment.
template <class T>
__device__ int64_t head_elements(const T* data, int64_t numel) {
    const uint64_t past = reinterpret_cast<uint64_t>(data) % sizeof(Vector16);
    const int64_t head = past == 0 ? 0 : static_cast<int64_t>((sizeof(Vector16) - past) / sizeof(T));
    return head < numel ? head : numel;
}

}  // namespace halfops
