// The lanes of a chunk's sums (core/chunks.h) in the registers of a warp.
//
// A thread adds elements of eights, so that its slot j of eight 0 belongs to lane 8 thread + j - missing, where missing
// is what eight 0 lacks at its front. Before the tree, slots move to the thread whose lanes they are.
#pragma once

#include "collective/vector.cuh"
#include "collective/warp.cuh"

namespace halfops {

static_assert(kEight == kPerThread && kLanes == kRadix, "an eight is what a thread holds of a tree");

__device__ __forceinline__ double sum_of_lanes(double (&slots)[kPerThread], int missing) {
    for (int moves = 0; moves < missing; ++moves) {
        const double next = __shfl_sync(kFullWarp, slots[0], lane_index() + 1);  // lane 31 takes lane 0's
#pragma unroll
        for (int i = 0; i + 1 < kPerThread; ++i) slots[i] = slots[i + 1];
        slots[kPerThread - 1] = next;
    }
    return warp_tree(slots);
}

}  // namespace halfops
