#include "runtime/tensor_map.h"

#include <cstring>

#include "runtime/error.h"

namespace emulator {

namespace {

static_assert(sizeof(TensorMap) <= TensorMap::kBytes);
constexpr uint64_t kMagic = 0x70616d726f736e65u;

constexpr int64_t kMostExtent = int64_t{1} << 32;
constexpr int64_t kPitchLimit = int64_t{1} << 40;
constexpr int kMostBox = 256;

}  // namespace

cudaError_t make_tensor_map(const void* data, TensorFormat format, const int64_t (&extent)[3],
                            const int64_t (&pitch)[2], const int (&box)[3], int swizzle, void* map) {
    TensorMap made{kMagic, static_cast<char*>(const_cast<void*>(data)), {}, {}, {}, format, swizzle};
    for (size_t i = 0; i < 3; ++i) {
        if (extent[i] < 1 || extent[i] > kMostExtent || box[i] < 1 || box[i] > kMostBox) return cudaErrorInvalidValue;
        made.extent[i] = extent[i];
        made.box[i] = box[i];
    }
    for (size_t i = 0; i < 2; ++i) {
        if (pitch[i] < 0 || pitch[i] >= kPitchLimit || pitch[i] % 16 != 0) return cudaErrorInvalidValue;
        made.pitch[i] = pitch[i];
    }
    const size_t row = made.row_bytes();
    const bool misaligned = reinterpret_cast<uintptr_t>(data) % 16 != 0 || row % kChunkBytes != 0;
    if (misaligned || (swizzle != 0 && row > static_cast<size_t>(swizzle))) return cudaErrorInvalidValue;
    std::memset(map, 0, TensorMap::kBytes);
    std::memcpy(map, &made, sizeof made);
    return cudaSuccess;
}

TensorMap tensor_map_at(const char* instruction, const void* place, Location where) {
    if (reinterpret_cast<uintptr_t>(place) % TensorMap::kAlignment != 0) {
        fail(format("%s with a tensor map at %p, which is not a multiple of 64", instruction, place), where);
    }
    TensorMap map;
    copy_unseen(&map, place, sizeof map);
    if (map.magic != kMagic) fail(format("%s with a tensor map that was never made", instruction), where);
    if (map.swizzle != 0 && map.row_bytes() != static_cast<size_t>(map.swizzle)) {
        fail(format("%s with rows of %zu bytes and a swizzle of %d: the emulator does not know where they lie",
                    instruction, map.row_bytes(), map.swizzle),
             where);
    }
    return map;
}

Box::Inside Box::inside(unsigned row) const {
    const int64_t y = at[1] + row % static_cast<unsigned>(map.box[1]), z = at[2] + row / map.box[1];
    const int64_t begin = std::max<int64_t>(0, -at[0]), end = std::min<int64_t>(map.box[0], map.extent[0] - at[0]);
    const bool outside = y < 0 || y >= map.extent[1] || z < 0 || z >= map.extent[2] || begin >= end;
    if (outside) return {nullptr, 0, 0};
    const auto size = static_cast<int64_t>(map.element_bytes());
    char* global = map.data + z * map.pitch[1] + y * map.pitch[0] + (at[0] + begin) * size;
    return {global, static_cast<size_t>(begin * size), static_cast<size_t>((end - begin) * size)};
}

// Bits 4 to 6 of the address ^= bits 7 to 9: the chunk's number in its 128 bytes, and that of the 128 bytes in 1024.
// With rows of 64 bytes, bits 4 and 5 ^= bits 7 and 8.
char* Box::chunk(char* shared, unsigned row, size_t byte) const {
    const auto address = reinterpret_cast<uintptr_t>(shared) + row * map.row_bytes() + byte;
    const uintptr_t moved = map.swizzle == 0 ? 0 : address >> 3 & (static_cast<uintptr_t>(map.swizzle) - kChunkBytes);
    return reinterpret_cast<char*>(address ^ moved);
}

}  // namespace emulator
