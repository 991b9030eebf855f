#include "runtime/block.h"

#include <algorithm>

namespace emulator {

Block::Block(dim3 grid, dim3 shape, uint3 position, size_t shared_bytes)
    : grid(grid), shape(shape), position(position), shared(shared_bytes) {
    const unsigned count = shape.x * shape.y * shape.z;
    threads.reserve(count);
    for (unsigned i = 0; i < count; ++i) {
        threads.emplace_back(i, uint3{i % shape.x, i / shape.x % shape.y, i / (shape.x * shape.y)});
    }
    warps.resize((count + 31) / 32);
}

unsigned Block::lanes_of_warp(unsigned warp) const {
    return std::min(32u, static_cast<unsigned>(threads.size()) - warp * 32);
}

}  // namespace emulator
