// The threads of one warp together: sums in the order of core/chunks.h, and the way from a chunk to its tensor.
//
// | function     | who calls        | result is valid in |
// | warp_sum     | all 32 lanes     | every lane         |
// | warp_tree    | all 32 lanes     | every lane         |
// | warp_members | all 32 lanes     | every lane         |
// | find_member  | all 32 lanes     | every lane         |
// | for_each_chunk | all 32 lanes   |                    |
#pragma once

#include <cuda_runtime.h>

#include "core/chunk_table.h"

namespace halfops {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;
// A tree's values, or a chunk's lanes, that one thread holds: neighbours, 8 lane ... 8 lane + 7.
inline constexpr int kPerThread = static_cast<int>(kRadix) / kWarpSize;

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }

// This warp's number in the whole grid, and how many there are: for loops over chunks. One-dimensional blocks.
__device__ __forceinline__ int64_t warp_in_grid() {
    return (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarpSize;
}
__device__ __forceinline__ int64_t warps_in_grid() { return static_cast<int64_t>(gridDim.x) * blockDim.x / kWarpSize; }

// The lanes' values, neighbours first.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int distance = 1; distance < kWarpSize; distance *= 2) value += __shfl_xor_sync(kFullWarp, value, distance);
    return value;
}

// add_tree of kRadix values. Neighbours exchange sums, and a + b = b + a, so every lane ends with the same bits.
__device__ __forceinline__ double warp_tree(const double (&mine)[kPerThread]) {
    const double sum = ((mine[0] + mine[1]) + (mine[2] + mine[3])) + ((mine[4] + mine[5]) + (mine[6] + mine[7]));
    return warp_sum(sum);
}

// add_members of get(0) ... get(n - 1).
template <class Get>
__device__ double warp_members(int64_t n, const Get& get) {
    double total = 0.0;
    for (int64_t begin = 0; begin < n; begin += kRadix) {
        double mine[kPerThread];
        const int64_t first = begin + lane_index() * kPerThread;
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) mine[i] = first + i < n ? get(first + i) : 0.0;
        total += warp_tree(mine);
    }
    return total;
}

// The member t with first[t] <= at < first[t + 1]: thirty-two places are tried at once.
__device__ __forceinline__ int64_t find_member(const int64_t* first, int64_t count, int64_t at) {
    int64_t low = 0, high = count;
    while (high - low > 1) {
        const int64_t stride = ceil_div(high - low, kWarpSize);
        const int64_t mine = low + lane_index() * stride;
        const unsigned reached = __ballot_sync(kFullWarp, mine < high && first[mine] <= at);
        const int64_t last = low + (__popc(reached) - 1) * stride;
        high = smaller(high, last + stride);
        low = last;
    }
    return low;
}

// visit(member, chunk of the member, chunk of the list), by all 32 lanes, for every chunk that is this warp's: the
// grid's warps take them in turn.
template <class Visit>
__device__ __forceinline__ void for_each_chunk(const ChunkTable& table, const Visit& visit) {
    int64_t member = 0, next = 0;  // the member at hand, and the first chunk that is none of its
    for (int64_t c = warp_in_grid(); c < table.chunks; c += warps_in_grid()) {
        if (c >= next) {
            member = find_member(table.first_chunk, table.count, c);
            next = table.first_chunk[member + 1];
        }
        visit(member, c - table.first_chunk[member], c);
    }
}

}  // namespace halfops
