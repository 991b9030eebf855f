// One piece of a tile: accumulators = sum over its steps. A loop for copies in flight, one for copies by register.
//
// Both keep the fragments of one sixteen of K in registers while those of the next are read from shared memory.
#pragma once

#include "linear/copy.cuh"
#include "linear/fragments.cuh"
#include "linear/schedule.h"
#include "ptx/mma.cuh"
#include "ptx/roles.cuh"

namespace halfops::linear {

// Everything about a kernel that the compiler knows.
template <class T_, int kRow, Major kMajorA_, Major kMajorB_>
struct Config {
    using T = T_;
    static constexpr Policy kPolicy = kPolicies[kRow];
    static constexpr Major kMajorA = kMajorA_, kMajorB = kMajorB_;
    static constexpr int kThreads = threads_of(kPolicy);
    static constexpr int kRows = warp_m(kPolicy) / 16, kColumns = warp_n(kPolicy) / 16;  // fragments of a warp
    static constexpr int kInner = kPolicy.k / 16;                                        // sixteens of K in a stage
    static_assert(kInner % 2 == 0, "fragments alternate between two sets of registers");

    using TileA = typename TileOf<kMajorA, kPolicy.m, kPolicy.k>::Type;
    using TileB = typename TileOf<kMajorB, kPolicy.n, kPolicy.k>::Type;
    static constexpr bool kSideBySide = kPolicy.copy == Copy::async;
    using LinesA = Lines<TileA, kMajorA, kThreads, kSideBySide>;
    using LinesB = Lines<TileB, kMajorB, kThreads, kSideBySide>;
    static constexpr int kStageBytes = TileA::kBytes + TileB::kBytes;
    static_assert(kStageBytes * kPolicy.stages <= shared_bytes(kPolicy), "the stages fit");
};

// What a block is at work on, in shared memory: thread 0 finds it out, and nobody needs registers for it.
struct Work {
    Piece piece;
    TilePlace place;
    int64_t next;  // the step of the share that comes after the piece
};

template <class Config>
struct Accumulators {
    // As mma leaves them: of each 16x8, rows lane / 4 and 8 more, columns 2 (lane % 4) and one more.
    float of[Config::kRows][Config::kColumns * 2][4];
};

// The two operands' chunks of this thread, stage by stage through a piece: over the first product's K, then the
// second's.
template <class Config>
class Feed {
  public:
    typename Config::LinesA a;
    typename Config::LinesB b;

    __device__ __forceinline__ Feed(const Operands& operands, const Work& work, int thread)
        : a(thread), b(thread), operands_(operands), place_(work.place), product_(0) {
        const int first = work.piece.first, steps = stages();
        product_ = operands.products == 2 && first >= steps ? 1 : 0;
        begin(product_ == 0 ? first : first - steps);
    }

    // Whether K certainly fills the stage.
    __device__ __forceinline__ bool is_full() const { return left_ > 1; }
    // Elements of K that the stage has.
    __device__ __forceinline__ int depth() const {
        return left_ > 1 ? kDepth : static_cast<int>(operands_.k - (stages() - 1) * static_cast<int64_t>(kDepth));
    }
    // To the next stage.
    __device__ __forceinline__ void advance() {
        if (--left_ == 0 && product_ + 1 < operands_.products) {
            product_ = 1;
            begin(0);
        } else {
            a.advance();
            b.advance();
        }
    }
    __device__ __forceinline__ Bounds bounds_a() const {
        return {operands_.a_begin[product_], operands_.a_end[product_]};
    }
    __device__ __forceinline__ Bounds bounds_b() const {
        return {operands_.b_begin[product_of_b()], operands_.b_end[product_of_b()]};
    }
    // Elements from one to the next along a line.
    __device__ __forceinline__ int64_t stride_a() const {
        const Operand& operand = operands_.a[product_];
        return Config::kMajorA == Major::k ? operand.k_stride : operand.mn_stride;
    }
    __device__ __forceinline__ int64_t stride_b() const {
        const Operand& operand = operands_.b[product_of_b()];
        return Config::kMajorB == Major::k ? operand.k_stride : operand.mn_stride;
    }

  private:
    static constexpr int kDepth = Config::kPolicy.k;

    // Of one product; one of an empty sum too.
    __device__ __forceinline__ int stages() const { return static_cast<int>(larger(1, ceil_div(operands_.k, kDepth))); }

    __device__ __forceinline__ int product_of_b() const { return operands_.gated ? b.which() : product_; }

    __device__ __forceinline__ void begin(int step) {
        constexpr Policy p = Config::kPolicy;
        const Operands& o = operands_;
        const int64_t i = place_.batch, k = static_cast<int64_t>(step) * kDepth;
        const int64_t a_offset = o.a_offsets != nullptr ? o.a_offsets[i] : i * o.a_step;
        const int64_t b_offset = o.b_offsets != nullptr ? o.b_offsets[i] : i * o.b_step;
        a.begin(o.a + product_, false, a_offset, place_.m * p.m, o.m, k);
        b.begin(o.b + product_, o.gated, b_offset, place_.n * (o.gated ? p.n / 2 : p.n), o.n, k);
        left_ = stages() - step;
    }

    const Operands& operands_;
    const TilePlace& place_;
    int left_, product_;  // stages of this product that are left
};

template <class Config>
class Warp {
  public:
    __device__ __forceinline__ Warp()
        : a_(warp_row(static_cast<int>(threadIdx.x) / kWarpSize)),
          b_(warp_column(static_cast<int>(threadIdx.x) / kWarpSize)) {}

    // A warp's place in the tile.
    __device__ __forceinline__ static int warp_row(int warp) {
        return warp / Config::kPolicy.warps_n * warp_m(Config::kPolicy);
    }
    __device__ __forceinline__ static int warp_column(int warp) {
        return warp % Config::kPolicy.warps_n * warp_n(Config::kPolicy);
    }

    // The first fragments of a piece.
    __device__ __forceinline__ void begin(const char* stage) {
        load_b(stage, 0, 0);
#pragma unroll
        for (int i = 0; i < Config::kRows; ++i) a_.load(fragments_a_[i], stage, i, 0);
    }

    // Multiplies the sixteen of K that number `inner` of a stage was, while the next one, `next_inner` of `next`, is on
    // its way: B's fragments to the other set of registers, A's each to its place as soon as its row is done.
    __device__ __forceinline__ void multiply(Accumulators<Config>& sums, int inner, const char* next, int next_inner) {
        load_b(next, next_inner, (inner + 1) % 2);
#pragma unroll
        for (int i = 0; i < Config::kRows; ++i) {
            multiply_row(sums, i, inner % 2);
            a_.load(fragments_a_[i], next, i, next_inner);
        }
    }
    // The last one of a stage that has no next.
    __device__ __forceinline__ void multiply(Accumulators<Config>& sums, int inner) const {
#pragma unroll
        for (int i = 0; i < Config::kRows; ++i) multiply_row(sums, i, inner % 2);
    }

  private:
    __device__ __forceinline__ void load_b(const char* stage, int inner, int set) {
#pragma unroll
        for (int j = 0; j < Config::kColumns; ++j) {
            b_.load(fragments_b_[set][j], stage + Config::TileA::kBytes, j, inner);
        }
    }
    __device__ __forceinline__ void multiply_row(Accumulators<Config>& sums, int i, int set) const {
#pragma unroll
        for (int j = 0; j < 2 * Config::kColumns; ++j) {
            // Back and forth, so that a fragment of B is used twice in a row.
            const int column = i % 2 == 0 ? j : 2 * Config::kColumns - 1 - j;
            const uint32_t (&pair)[4] = fragments_b_[set][column / 2];
            const uint32_t b[2] = {pair[column % 2 * 2], pair[column % 2 * 2 + 1]};
            ptx::mma_m16n8k16<typename Config::T>(sums.of[i][column], fragments_a_[i], b);
        }
    }

    Fragments<typename Config::TileA, Side::a, Config::kMajorA> a_;
    Fragments<typename Config::TileB, Side::b, Config::kMajorB> b_;
    uint32_t fragments_a_[Config::kRows][4], fragments_b_[2][Config::kColumns][4];
};

// kStages in shared memory, kStages - 1 of them in flight. One barrier a step: it says that a stage has arrived for
// everybody, and that nobody reads any more the one before, into which the next copy goes.
template <class Config>
__device__ __forceinline__ void run_async(const Operands& operands, const Work& work, char* shared,
                                          Accumulators<Config>& sums) {
    constexpr int kStages = Config::kPolicy.stages;
    Feed<Config> feed(operands, work, ptx::thread_index_anew());
    const int steps = work.piece.last - work.piece.first;
    const auto issue = [&](int step, int stage) {
        if (step < steps) {
            char* to = shared + stage * Config::kStageBytes;
            if (feed.is_full()) {
                AsyncCopy<typename Config::LinesA>::issue(feed.a, to);
                AsyncCopy<typename Config::LinesB>::issue(feed.b, to + Config::TileA::kBytes);
            } else {
                AsyncCopy<typename Config::LinesA>::issue(feed.a, feed.depth(), to);
                AsyncCopy<typename Config::LinesB>::issue(feed.b, feed.depth(), to + Config::TileA::kBytes);
            }
            feed.advance();
        }
        ptx::cp_async_commit();  // an empty group too: waiting counts groups
    };
#pragma unroll 1
    for (int stage = 0; stage < kStages - 1; ++stage) issue(stage, stage);
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the first stage has arrived for every thread

    Warp<Config> warp;
    warp.begin(shared);
    int read = 0, written = kStages - 1;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        const char* stage = shared + read * Config::kStageBytes;
        issue(step + kStages - 1, written);
        written = written + 1 == kStages ? 0 : written + 1;
#pragma unroll
        for (int inner = 0; inner + 1 < Config::kInner; ++inner) warp.multiply(sums, inner, stage, inner + 1);
        read = read + 1 == kStages ? 0 : read + 1;
        ptx::cp_async_wait<kStages - 2>();
        __syncthreads();  // the next stage has arrived, and this one has been read
        // Behind the last step this reads a stage that has nothing for it, and nobody uses it.
        warp.multiply(sums, Config::kInner - 1, shared + read * Config::kStageBytes, 0);
    }
    __syncthreads();  // shared memory is free for what comes next
}

// Two stages: the next one is in registers while this one is multiplied.
template <class Config>
__device__ __forceinline__ void run_staged(const Operands& operands, const Work& work, char* shared,
                                           Accumulators<Config>& sums) {
    static_assert(Config::kPolicy.stages == 2, "one is read while the other is written");
    Feed<Config> feed(operands, work, ptx::thread_index_anew());
    StagedCopy<typename Config::T, typename Config::LinesA> a;
    StagedCopy<typename Config::T, typename Config::LinesB> b;
    const int steps = work.piece.last - work.piece.first;
    a.fetch(feed.a, feed.depth(), feed.stride_a(), feed.bounds_a());
    b.fetch(feed.b, feed.depth(), feed.stride_b(), feed.bounds_b());
    Warp<Config> warp;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        char* stage = shared + step % 2 * Config::kStageBytes;
        a.store(feed.a, stage);
        b.store(feed.b, stage + Config::TileA::kBytes);
        __syncthreads();  // the stage is there; the other one was read before the barrier of the step before
        if (step + 1 < steps) {
            feed.advance();
            a.fetch(feed.a, feed.depth(), feed.stride_a(), feed.bounds_a());
            b.fetch(feed.b, feed.depth(), feed.stride_b(), feed.bounds_b());
        }
        warp.begin(stage);
#pragma unroll
        for (int inner = 0; inner + 1 < Config::kInner; ++inner) warp.multiply(sums, inner, stage, inner + 1);
        warp.multiply(sums, Config::kInner - 1);
    }
    __syncthreads();  // shared memory is free for what comes next
}

}  // namespace halfops::linear
