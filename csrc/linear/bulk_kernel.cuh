// The GEMM kernel for sm_90a: one warp starts copies, two warpgroups multiply and finish, through all of the block's
// pieces.
//
// Sources: PTX ISA, the sections that csrc/ptx names; the division of roles is that of NVIDIA's persistent kernels.
#pragma once

#include "collective/shared.cuh"
#include "linear/bulk_epilogue.cuh"
#include "linear/bulk_leaving.cuh"
#include "linear/bulk_mainloop.cuh"
#include "linear/bulk_producer.cuh"
#include "ptx/hopper.cuh"

namespace halfops::linear {

// 128 * 56 + 256 * 224 registers are the 64,512 that 384 threads with 168 begin with.
inline constexpr int kProducerRegisters = 56, kConsumerRegisters = 224;

// Matrices that an epilogue reads are fetched to L2 while products are summed.
__device__ __forceinline__ bool reads_matrices(const EpilogueArguments& e) {
    return e.c.data != nullptr || e.grad_preact.data != nullptr;
}

template <class C>
__device__ __forceinline__ void set_up(const GemmArguments& arguments, const BulkArguments& bulk,
                                       Control<C::kStages>& control) {
    if (threadIdx.x == kWarpSize) {
        ptx::prefetch_tensor_map(bulk.a[0]);
        ptx::prefetch_tensor_map(bulk.b[0]);
        if (bulk.kind == Kind::plain) ptx::prefetch_tensor_map(bulk.out);
    }
    if (threadIdx.x == 0) {
        for (int i = 0; i < C::kStages; ++i) {
            ptx::mbarrier_init(&control.full[i], 1);
            ptx::mbarrier_init(&control.empty[i], C::kReaders);
        }
        const int readers = kConsumers * kWarpgroup / kWarpSize + (reads_matrices(arguments.epilogue) ? 1 : 0);
        for (int i = 0; i < kWorks; ++i) {
            ptx::mbarrier_init(&control.known[i], 1);
            ptx::mbarrier_init(&control.done[i], readers);
        }
        ptx::fence_mbarrier_init();
    }
    if constexpr (C::kCluster > 1) {
        ptx::cluster_arrive();
        ptx::cluster_wait();
    } else {
        __syncthreads();
    }
}

// The parts of a tile that its epilogue will read, on their way to L2. By a warp.
template <class C>
__device__ __forceinline__ void fetch_ahead(const GemmArguments& arguments, Control<C::kStages>& control) {
    constexpr Policy p = C::kPolicy;
    ptx::wait_for_earlier_grids();
    for (Place<kWorks> at;; at.advance()) {
        ptx::mbarrier_wait(&control.known[at.index()], at.parity());
        const BulkWork& work = control.works[at.index()];
        if (work.piece.tile < 0) return;
        if (arguments.schedule.is_whole(work.piece)) {
            const int rank = C::kCluster > 1 ? static_cast<int>(ptx::cluster_rank()) : 0;
            Outputs o = outputs_of(arguments, work.place, p.m, p.n, 0);
            o.row += rank * C::kM;
            prefetch(arguments.epilogue, o, C::kM, p.n, lane_index(), kWarpSize);
        }
        __syncwarp();  // everybody has read the work
        if (lane_index() == 0) ptx::mbarrier_arrive(&control.done[at.index()]);
    }
}

// Alternating warpgroups take turns at the tensor cores: named barriers 1 and 2 say whose turn it is. What Finish keeps
// of a tile leaves beside the next one's steps.
template <class C, class Finish>
__device__ __forceinline__ void consume(const GemmArguments& arguments, Control<C::kStages>& control,
                                        const char* stages, int group, Finish finish) {
    Multiplier<C> multiplier(control, stages, group);
    if (C::kAlternate && group == 1) ptx::named_barrier_arrive<kConsumers * kWarpgroup>(1);
    ptx::wait_for_earlier_grids();
#pragma unroll 1
    for (Place<kWorks> at;; at.advance()) {
        ptx::mbarrier_wait(&control.known[at.index()], at.parity());
        const BulkWork& work = control.works[at.index()];
        const bool over = work.piece.tile < 0;
        if (over && !finish.has_left()) break;
        const int steps = over ? 0 : work.piece.last - work.piece.first;
        if (!C::kAlternate || static_cast<int>(at.number % 2) == group) {
            float sums[C::kHeights][C::kN / 2];
            if (C::kAlternate) ptx::named_barrier_sync<kConsumers * kWarpgroup>(1 + group);
            multiplier.run(steps, sums, finish);
            if (over) break;
            if (C::kAlternate) ptx::named_barrier_arrive<kConsumers * kWarpgroup>(2 - group);
            const int rank = C::kCluster > 1 ? static_cast<int>(ptx::cluster_rank()) : 0;
            const int row = rank * C::kM + (C::kAlternate ? 0 : group * C::kGroupRows);  // of the tile
            if (arguments.schedule.is_whole(work.piece)) {
                finish.take(work, row, sums);
            } else {
                store_piece<C>(arguments, work, row, sums);
            }
        } else {
            multiplier.skip(steps);
        }
        __syncwarp();  // everybody has read the work
        if (lane_index() == 0) ptx::mbarrier_arrive(&control.done[at.index()]);
    }
    if (lane_index() == 0) ptx::tma_wait_read<0>();  // shared memory is this block's until then
}

template <class T, int kRow, Major kMajorA, Major kMajorB>
__global__ void __launch_bounds__(threads_of(kPolicies[kRow]), 1)
    bulk_gemm_kernel(const __grid_constant__ GemmArguments arguments, const __grid_constant__ BulkArguments bulk) {
    if constexpr (ptx::kHasHopper) {
        using C = BulkConfig<T, kRow, kMajorA, kMajorB>;
        char* stages = shared_bytes_as<char>();
        auto& control = shared_array<struct OfBulkBlock, Control<C::kStages>, 1>()[0];
        set_up<C>(arguments, bulk, control);
        ptx::let_next_grid_begin();
        // From one lane, so that what follows from it is known to be the same in all: descriptors in uniform registers.
        const int group = __shfl_sync(kFullWarp, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
        const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
        if (group == 0) {
            ptx::give_registers<kProducerRegisters>();
            if (warp == 0 && lane_index() == 0) Producer<C>(arguments, bulk, control, stages).run();
            if (warp == 1 && reads_matrices(arguments.epilogue)) fetch_ahead<C>(arguments, control);
        } else {
            ptx::take_registers<kConsumerRegisters>();
            // A loop each: neither has the other's registers.
            if (Leaving<C>::suits(bulk.kind)) {
                consume<C>(arguments, control, stages, group - 1, Leaving<C>(arguments, bulk));
            } else {
                consume<C>(arguments, control, stages, group - 1, BulkFinisher<C>(arguments, bulk));
            }
        }
        if constexpr (C::kCluster > 1) {
            __syncwarp();
            // No block ends before the other's last arrivals at its barriers.
            ptx::cluster_arrive();
            ptx::cluster_wait();
        }
    }
}

}  // namespace halfops::linear
