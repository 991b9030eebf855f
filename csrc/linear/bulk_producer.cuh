// The warp that starts copies: it finds out what the block has to do, tells the others, and fills stages.
#pragma once

#include "linear/bulk_config.cuh"
#include "linear/kernel.cuh"
#include "ptx/cluster.cuh"
#include "ptx/roles.cuh"
#include "ptx/tma.cuh"

namespace halfops::linear {

template <class C>
class Producer {
  public:
    __device__ __forceinline__ Producer(const GemmArguments& arguments, const BulkArguments& bulk,
                                        Control<C::kStages>& control, char* stages)
        : arguments_(arguments),
          bulk_(bulk),
          control_(control),
          stages_(stages),
          rank_(C::kCluster > 1 ? static_cast<int>(ptx::cluster_rank()) : 0) {}

    // By one thread. Shares in turn: this cluster's number, and then as many on as there are clusters.
    __device__ __forceinline__ void run() {
        const Schedule& schedule = arguments_.schedule;
#pragma unroll 1
        for (unsigned share = blockIdx.x / C::kCluster; share < static_cast<unsigned>(schedule.blocks);
             share += gridDim.x / C::kCluster) {
            schedule.for_each_piece(share, [&](const Piece& piece) {
                const TilePlace place = schedule.place_of(piece.tile);
                tell({piece, place, share});
                ptx::wait_for_earlier_grids();  // the first time; what was done so far reads nothing of theirs
                fill(piece, place);
            });
        }
        tell({{-1, 0, 0, 0}, {0, 0, 0}, 0});
    }

  private:
    __device__ __forceinline__ void tell(const BulkWork& work) {
        ptx::mbarrier_wait(&control_.done[work_.index()], work_.parity() ^ 1);
        control_.works[work_.index()] = work;
        ptx::mbarrier_arrive(&control_.known[work_.index()]);
        work_.advance();
    }

    __device__ __forceinline__ void fill(const Piece& piece, const TilePlace& place) {
        const Operands& o = arguments_.operands;
        const int stages = static_cast<int>(ceil_div(o.k, C::kDepth));  // of one product
        const int m = static_cast<int>(place.m) * C::kPolicy.m + rank_ * C::kM;
        const int n = static_cast<int>(place.n) * (o.gated ? C::kN / 2 : C::kN);
        const int batch = static_cast<int>(place.batch);
#pragma unroll 1
        for (int step = piece.first; step < piece.last; ++step) {
            const int product = step >= stages ? 1 : 0, k = (step - product * stages) * C::kDepth;
            uint64_t* full = &control_.full[stage_.index()];
            char* to = stages_ + stage_.index() * C::kStageBytes;
            ptx::mbarrier_wait(&control_.empty[stage_.index()], stage_.parity() ^ 1);
            ptx::mbarrier_arrive_expect_bytes(full, C::kStageBytes);
            load<C::kMajorA, C::kM, false>(to, bulk_.a[product], m, k, batch * bulk_.a_batched, full);
            load_b(to + C::kBytesA, product, n, k, batch * bulk_.b_batched, full);
            stage_.advance();
        }
    }

    // In halves: of a cluster each block asks for one, for both; of a gated problem each factor has one.
    __device__ __forceinline__ void load_b(char* to, int product, int n, int k, int batch, uint64_t* full) const {
        const bool gated = arguments_.operands.gated;
        if constexpr (C::kHasHalves) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (C::kCluster > 1 && half != rank_) continue;
                load<C::kMajorB, C::kN / 2, (C::kCluster > 1)>(to + half * (C::kBytesB / 2),
                                                               bulk_.b[gated ? half : product],
                                                               n + (gated ? 0 : half * (C::kN / 2)), k, batch, full);
            }
        } else {
            load<C::kMajorB, C::kN, false>(to, bulk_.b[product], n, k, batch, full);
        }
    }

    // kExtent of M (or N) from mn on, 64 of K from k on: rows of K, or slabs of rows of M (or N).
    template <Major kMajor, int kExtent, bool kShared>
    __device__ __forceinline__ static void load(char* to, const ptx::TensorMap& map, int mn, int k, int batch,
                                                uint64_t* full) {
        if constexpr (kMajor == Major::k) {
            box<kShared>(to, map, k, mn, batch, full);
        } else {
#pragma unroll
            for (int slab = 0; slab < kExtent / 64; ++slab) {
                box<kShared>(to + slab * C::kSlabBytes, map, mn + slab * 64, k, batch, full);
            }
        }
    }
    template <bool kShared>
    __device__ __forceinline__ static void box(char* to, const ptx::TensorMap& map, int c0, int c1, int c2,
                                               uint64_t* full) {
        if constexpr (kShared) {
            ptx::tma_load_multicast(to, map, c0, c1, c2, full, (1u << C::kCluster) - 1);
        } else {
            ptx::tma_load(to, map, c0, c1, c2, full);
        }
    }

    const GemmArguments& arguments_;
    const BulkArguments& bulk_;
    Control<C::kStages>& control_;
    char* stages_;
    int rank_;
    Place<C::kStages> stage_;
    Place<kWorks> work_;
};

}  // namespace halfops::linear
