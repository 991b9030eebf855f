// What a file of instances/ consists of: HALFOPS_LINEAR_ROW(f16, 0).
#pragma once

#include "collective/launch.cuh"
#include "linear/rows.cuh"

namespace halfops::linear {

template <class T, int kRow, Major kMajorA, Major kMajorB>
cudaError_t launch_layout(const GemmArguments& arguments, cudaStream_t stream) {
    if constexpr (has_layout(kPolicies[kRow], kMajorA, kMajorB)) {
        constexpr Policy p = kPolicies[kRow];
        const auto blocks = static_cast<unsigned>(arguments.schedule.blocks);
        const Grid grid{blocks, static_cast<unsigned>(threads_of(p)), static_cast<unsigned>(shared_bytes(p))};
        const cudaError_t status = allow_shared<gemm_kernel<T, kRow, kMajorA, kMajorB>>(grid.shared_bytes);
        return status != cudaSuccess ? status : launch<gemm_kernel<T, kRow, kMajorA, kMajorB>>(grid, stream, arguments);
    } else {
        return cudaErrorInvalidValue;
    }
}

template <class T, int kRow>
cudaError_t launch_row(const GemmArguments& arguments, Major a, Major b, cudaStream_t stream) {
    if (a == Major::k) {
        return b == Major::k ? launch_layout<T, kRow, Major::k, Major::k>(arguments, stream)
                             : launch_layout<T, kRow, Major::k, Major::mn>(arguments, stream);
    }
    return b == Major::k ? launch_layout<T, kRow, Major::mn, Major::k>(arguments, stream)
                         : launch_layout<T, kRow, Major::mn, Major::mn>(arguments, stream);
}

}  // namespace halfops::linear

#define HALFOPS_LINEAR_ROW(T, row) \
    template cudaError_t halfops::linear::launch_row<halfops::T, row>(const GemmArguments&, Major, Major, cudaStream_t);
