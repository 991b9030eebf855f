// Two sums for every tensor of a list, from two sums for every chunk: the upper half of the order in core/chunks.h.
//
// Chunks are added to groups, groups to tensors, each by one warp. Two launches, because the second reads what other
// blocks of the first wrote; both are a few microseconds beside the pass over the elements.
#pragma once

#include "collective/launch.cuh"
#include "collective/warp.cuh"

namespace halfops {

struct alignas(16) Pair {
    double first, second;
};

// Where the sums of each level go: chunks are filled by whoever reads the elements.
struct PairSums {
    Pair *of_chunk, *of_group, *of_tensor;
};

inline int64_t pair_sums_bytes(const ChunkTable& sizes) {
    return static_cast<int64_t>(sizeof(Pair)) * (sizes.chunks + sizes.groups + sizes.count);
}

inline PairSums pair_sums_at(void* workspace, const ChunkTable& sizes) {
    Pair* begin = static_cast<Pair*>(workspace);
    return {begin, begin + sizes.chunks, begin + sizes.chunks + sizes.groups};
}

inline constexpr unsigned kSumThreads = 256;

__device__ __forceinline__ Pair warp_pair(const Pair* values, int64_t n) {
    return {warp_members(n, [=](int64_t i) { return values[i].first; }),
            warp_members(n, [=](int64_t i) { return values[i].second; })};
}

static __global__ void __launch_bounds__(kSumThreads) add_chunks_kernel(ChunkTable table, PairSums sums) {
    for (int64_t g = warp_in_grid(); g < table.groups; g += warps_in_grid()) {
        const int64_t t = find_member(table.first_group, table.count, g);
        const int64_t first = table.first_chunk[t] + (g - table.first_group[t]) * kRadix;
        const Pair sum = warp_pair(sums.of_chunk + first, smaller(kRadix, table.first_chunk[t + 1] - first));
        if (lane_index() == 0) sums.of_group[g] = sum;
    }
}

static __global__ void __launch_bounds__(kSumThreads) add_groups_kernel(ChunkTable table, PairSums sums) {
    for (int64_t t = warp_in_grid(); t < table.count; t += warps_in_grid()) {
        const int64_t first = table.first_group[t];
        const Pair sum = warp_pair(sums.of_group + first, table.first_group[t + 1] - first);
        if (lane_index() == 0) sums.of_tensor[t] = sum;
    }
}

inline cudaError_t add_pairs(const ChunkTable& table, const PairSums& sums, cudaStream_t stream) {
    constexpr int64_t kWarps = kSumThreads / kWarpSize;
    Grid groups{1, kSumThreads}, tensors{1, kSumThreads};
    cudaError_t status =
        persistent_blocks<add_chunks_kernel>(ceil_div(table.groups, kWarps), kSumThreads, &groups.blocks);
    if (status == cudaSuccess) {
        status = persistent_blocks<add_groups_kernel>(ceil_div(table.count, kWarps), kSumThreads, &tensors.blocks);
    }
    if (status == cudaSuccess) status = launch<add_chunks_kernel>(groups, stream, table, sums);
    if (status == cudaSuccess) status = launch<add_groups_kernel>(tensors, stream, table, sums);
    return status;
}

}  // namespace halfops
