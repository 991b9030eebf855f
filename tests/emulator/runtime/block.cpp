#include "runtime/block.h"

#include <algorithm>

#include "runtime/cluster.h"

namespace emulator {

Block::Block(Cluster& cluster, unsigned rank, uint3 position, size_t shared_bytes)
    : cluster(cluster), rank(rank), position(position), shared(shared_bytes) {
    const dim3 shape = cluster.shape;
    const unsigned count = shape.x * shape.y * shape.z;
    threads.reserve(count);
    for (unsigned i = 0; i < count; ++i) {
        const uint3 thread{i % shape.x, i / shape.x % shape.y, i / (shape.x * shape.y)};
        threads.emplace_back(*this, i, thread, rank * cluster.places_of_block() + i);
    }
    warps.resize((count + 31) / 32);
    registers.resize(warps.size());
    products = std::vector<ProductsOfWarp>(warps.size());
}

unsigned Block::lanes_of_warp(unsigned warp) const {
    return std::min(32u, static_cast<unsigned>(threads.size()) - warp * 32);
}

}  // namespace emulator
