// Tensors as the copy engine knows them, and the boxes of them that it moves.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "emulator/location.h"
#include "emulator/tma.h"

namespace emulator {

// What make_tensor_map leaves in the 128 bytes.
struct TensorMap {
    static constexpr size_t kBytes = 128;
    static constexpr size_t kAlignment = 64;

    uint64_t magic;
    char* data;
    std::array<int64_t, 3> extent;
    std::array<int64_t, 2> pitch;
    std::array<int32_t, 3> box;
    TensorFormat format;
    int32_t swizzle;

    size_t element_bytes() const { return format == TensorFormat::f32 ? 4 : 2; }
    size_t row_bytes() const { return static_cast<size_t>(box[0]) * element_bytes(); }
    unsigned rows() const { return static_cast<unsigned>(box[1] * box[2]); }
    size_t bytes() const { return rows() * row_bytes(); }
    // Of a box in shared memory: where the pattern of its swizzle begins.
    size_t alignment() const { return swizzle == 0 ? 128 : 8 * static_cast<size_t>(swizzle); }
};

inline constexpr size_t kMostRowBytes = 256 * 4;
inline constexpr size_t kChunkBytes = 16;

// The box of a tensor at some coordinates.
struct Box {
    TensorMap map;
    std::array<int64_t, 3> at;

    // The part of row `row` that lies in the tensor: where it begins, the byte of the row that this is, and how many
    // bytes there are, perhaps none.
    struct Inside {
        char* global;
        size_t begin;
        size_t bytes;
    };
    Inside inside(unsigned row) const;

    // Where 16 bytes of a row lie in shared memory, if the box begins at `shared`.
    char* chunk(char* shared, unsigned row, size_t byte) const;
};

// An error if `map` is none.
TensorMap tensor_map_at(const char* instruction, const void* map, Location where);

}  // namespace emulator
