#include "collective/launch.cuh"
#include "core/shape.h"
#include "scale/nonfinite.cuh"

namespace halfops::scale::cuda {

int nonfinite_check(const Span* spans, int64_t count, int64_t numel, void* stream, float* found_inf,
                    const char** message) {
    const auto queue = static_cast<cudaStream_t>(stream);
    Grid grid{1, kThreads};
    const int64_t per_block = static_cast<int64_t>(kThreads) * kUnroll * 8;
    cudaError_t status = persistent_blocks(ceil_div(numel, per_block), 8, &grid.blocks);
    if (status == cudaSuccess) status = cudaMemsetAsync(found_inf, 0, sizeof(float), queue);
    if (status == cudaSuccess) status = launch<nonfinite_kernel>(grid, queue, spans, count, found_inf);
    if (status != cudaSuccess) *message = cudaGetErrorString(status);
    return static_cast<int>(status);
}

}  // namespace halfops::scale::cuda
