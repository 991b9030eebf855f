// A bulk kernel's geometry, and what its warps tell each other.
#pragma once

#include "collective/warp.cuh"
#include "linear/bulk.h"
#include "linear/policy.h"
#include "linear/schedule.h"
#include "ptx/mbarrier.cuh"

namespace halfops::linear {

template <class T_, int kRow, Major kMajorA_, Major kMajorB_>
struct BulkConfig {
    using T = T_;
    static constexpr Policy kPolicy = kPolicies[kRow];
    static constexpr Major kMajorA = kMajorA_, kMajorB = kMajorB_;
    static constexpr int kStages = kPolicy.stages, kCluster = kPolicy.cluster, kThreads = threads_of(kPolicy);
    static constexpr bool kAlternate = kPolicy.alternate;
    static constexpr int kM = block_m(kPolicy), kN = kPolicy.n, kDepth = kPolicy.k;
    // Rows of a warpgroup, in sixty-fours.
    static constexpr int kGroupRows = kAlternate ? kM : kM / kConsumers, kHeights = kGroupRows / 64;
    static constexpr int kLineBytes = 128;  // a row of a box: 64 elements, along K or along M (or N)
    static constexpr int kBytesA = kM * kDepth * 2, kBytesB = kN * kDepth * 2, kStageBytes = kBytesA + kBytesB;
    static constexpr int kSlabBytes = kDepth * kLineBytes;  // 64 of M (or N) where lines run along it
    // Arrivals that free a stage: a warp each of those that read it, in every block that its copies went to.
    static constexpr int kReaders = (kAlternate ? 1 : kConsumers) * kWarpgroup / kWarpSize * kCluster;

    static_assert(kDepth == 64, "a line of K is a box of 128 bytes");
    // Halves of B are whole slabs; or else B comes as a whole where lines run along N.
    static constexpr bool kHasHalves = kMajorB == Major::k || kN % 128 == 0;

    static_assert(kGroupRows % 64 == 0 && kN % 64 == 0 && kN <= 256, "what wgmma multiplies, and slabs of B");
    static_assert(kHasHalves || kCluster == 1, "a cluster's blocks ask for a half each");
    static_assert(kCluster <= 2, "halves of B are shared among two");
};

// A piece of work, from the thread that starts copies to everybody; the last one has no tile.
struct BulkWork {
    Piece piece;
    TilePlace place;
    int64_t share;
};

inline constexpr int kWorks = 4;  // pieces on their way: copies begin long before their products are finished

// In shared memory. Barriers: full counts the bytes of a stage, empty those who have read it; known says that a piece
// of work is there, done that everybody has finished with it.
template <int kStages>
struct Control {
    uint64_t full[kStages], empty[kStages], known[kWorks], done[kWorks];
    BulkWork works[kWorks];
};

// A place in a ring of kCount, and the parity of its barrier's phase, of one number: registers are short.
template <int kCount>
struct Place {
    unsigned number = 0;

    __device__ __forceinline__ int index() const { return static_cast<int>(number % kCount); }
    __device__ __forceinline__ unsigned parity() const { return number / kCount & 1; }
    __device__ __forceinline__ void advance(int steps = 1) { number += static_cast<unsigned>(steps); }
};

}  // namespace halfops::linear
