// One piece of a tile by a warpgroup: accumulators = sum over its steps, from stages as they come.
#pragma once

#include "linear/bulk_config.cuh"
#include "ptx/wgmma.cuh"

namespace halfops::linear {

template <class C>
class Multiplier {
  public:
    using Sums = float[C::kHeights][C::kN / 2];  // of each 64 rows, as wgmma leaves them

    // `group` is the warpgroup's number among those that multiply.
    __device__ __forceinline__ Multiplier(Control<C::kStages>& control, const char* stages, int group)
        : control_(control), stages_(stages), group_(group) {}

    // Steps that the other warpgroup multiplies.
    __device__ __forceinline__ void skip(int steps) { stage_.advance(steps); }

    // A stage is free once the products that read it are done: those of the step before, when at most one group is
    // under way. What `finish` has left to do has a place in every step, behind its products' start: there are the
    // tensor cores busy for two steps.
    template <class Finish>
    __device__ __forceinline__ void run(int steps, Sums& sums, Finish& finish) {
        const uint64_t a =
            descriptor<C::kMajorA>(stages_ + (C::kAlternate ? 0 : group_ * C::kGroupRows * C::kLineBytes));
        const uint64_t b = descriptor<C::kMajorB>(stages_ + C::kBytesA);
        settle(sums);
#pragma unroll 1
        for (int step = 0; step < steps || finish.has_left(); ++step) {
            if (step < steps) {
                ptx::mbarrier_wait(&control_.full[stage_.index()], stage_.parity());
                multiply(sums, ptx::advanced(a, stage_.index() * C::kStageBytes),
                         ptx::advanced(b, stage_.index() * C::kStageBytes), step > 0);
            }
            finish.beside_step();
            if (step < steps) {
                ptx::wgmma_wait<1>();
                if (step > 0) release_last();
                stage_.advance();
            }
        }
        ptx::wgmma_wait<0>();
        settle(sums);
        if (steps > 0) release_last();
    }

  private:
    template <Major kMajor>
    __device__ __forceinline__ static uint64_t descriptor(const char* at) {
        // Eight lines are 1024 bytes; slabs follow each other.
        return ptx::wgmma_descriptor(at, kMajor == Major::k ? 16 : C::kSlabBytes, 8 * C::kLineBytes);
    }
    // The next 16 of K.
    template <Major kMajor>
    static constexpr int kSixteen = kMajor == Major::k ? 32 : 16 * C::kLineBytes;

    __device__ __forceinline__ static void multiply(Sums& sums, uint64_t a, uint64_t b, bool accumulate) {
        ptx::wgmma_fence();
#pragma unroll
        for (int inner = 0; inner < C::kDepth / 16; ++inner) {
#pragma unroll
            for (int i = 0; i < C::kHeights; ++i) {
                // 64 rows of M are 8192 bytes, whichever way lines run.
                ptx::wgmma<typename C::T, C::kN, C::kMajorA == Major::mn, C::kMajorB == Major::mn>(
                    sums[i], ptx::advanced(a, i * 64 * C::kLineBytes + inner * kSixteen<C::kMajorA>),
                    ptx::advanced(b, inner * kSixteen<C::kMajorB>), accumulate || inner > 0);
            }
        }
        ptx::wgmma_commit();
    }

    __device__ __forceinline__ static void settle(Sums& sums) {
#pragma unroll
        for (int i = 0; i < C::kHeights; ++i) ptx::wgmma_settle(sums[i]);
    }

    // The stage before the present one. By a lane of the warp for each block that its copies went to.
    __device__ __forceinline__ void release_last() const {
        uint64_t* empty = &control_.empty[Place<C::kStages>{stage_.number - 1}.index()];
        if constexpr (C::kCluster > 1) {
            const int lane = lane_index();
            if (lane < C::kCluster) ptx::mbarrier_arrive_at(empty, static_cast<unsigned>(lane));
        } else {
            if (lane_index() == 0) ptx::mbarrier_arrive(empty);
        }
    }

    Control<C::kStages>& control_;
    const char* stages_;
    int group_;
    Place<C::kStages> stage_;
};

}  // namespace halfops::linear
