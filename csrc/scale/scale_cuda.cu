#include "collective/launch.cuh"
#include "scale/stats.cuh"

namespace halfops::scale::cuda {
namespace {

// A persistent grid in which every warp takes chunks.
template <auto kKernel>
cudaError_t over_chunks(const ChunkTable& sizes, Grid* grid) {
    grid->threads = kThreads;
    return persistent_blocks<kKernel>(ceil_div(sizes.chunks, kThreads / kWarpSize), kThreads, &grid->blocks);
}

template <bool kUnscale>
CudaStatus stats(const SpanTable& list, const float* inv_scale, bool count_zeros, void* workspace, void* stream,
                 StatsOut out) {
    const auto queue = static_cast<cudaStream_t>(stream);
    const PairSums sums = pair_sums_at(workspace, list.chunks);
    Grid grid{};
    cudaError_t status = over_chunks<stats_kernel<kUnscale>>(list.chunks, &grid);
    if (status == cudaSuccess) {
        status = launch<stats_kernel<kUnscale>>(grid, queue, list, inv_scale, count_zeros, sums.of_chunk);
    }
    if (status == cudaSuccess) status = add_pairs(list.chunks, sums, queue);
    if (status == cudaSuccess) {
        const Pair* of_tensor = sums.of_tensor;
        status = launch<stats_finish>(Grid{1, kThreads}, queue, of_tensor, list.chunks.count, out);
    }
    return status_of(status);
}

}  // namespace

CudaStatus supported() { return status_of(has_kernel<scale_update_kernel>()); }

int64_t workspace_bytes(const ChunkTable& sizes) { return pair_sums_bytes(sizes); }

CudaStatus nonfinite_check(const SpanTable& list, void* stream, float* found_inf) {
    const auto queue = static_cast<cudaStream_t>(stream);
    Grid grid{};
    cudaError_t status = over_chunks<nonfinite_kernel>(list.chunks, &grid);
    if (status == cudaSuccess) status = cudaMemsetAsync(found_inf, 0, sizeof(float), queue);
    if (status == cudaSuccess) status = launch<nonfinite_kernel>(grid, queue, list, found_inf);
    return status_of(status);
}

CudaStatus grad_stats(const SpanTable& list, bool count_zeros, void* workspace, void* stream, StatsOut out) {
    return stats<false>(list, nullptr, count_zeros, workspace, stream, out);
}

CudaStatus unscale(const SpanTable& list, const float* inv_scale, bool count_zeros, void* workspace, void* stream,
                   StatsOut out) {
    return stats<true>(list, inv_scale, count_zeros, workspace, stream, out);
}

CudaStatus scale_update(LossScalePointers state, const float* found_inf, LossScalePolicy policy, void* stream) {
    return status_of(
        launch<scale_update_kernel>(Grid{1, 1}, static_cast<cudaStream_t>(stream), state, found_inf, policy));
}

}  // namespace halfops::scale::cuda
