// What a file of instances/ consists of: HALFOPS_LINEAR_ROW(f16, 0).
#pragma once

#include "collective/launch.cuh"
#include "linear/bulk_kernel.cuh"
#include "linear/rows.cuh"

namespace halfops::linear {

template <class T, int kRow, Major kMajorA, Major kMajorB>
cudaError_t launch_layout(const GemmArguments& arguments, const BulkArguments& bulk, unsigned blocks,
                          cudaStream_t stream) {
    constexpr Policy p = kPolicies[kRow];
    Grid grid{blocks, static_cast<unsigned>(threads_of(p)), static_cast<unsigned>(shared_bytes(p))};
    if constexpr (!has_layout(p, kMajorA, kMajorB)) {
        return cudaErrorInvalidValue;
    } else if constexpr (p.copy == Copy::bulk) {
        grid.cluster = p.cluster;
        grid.overlaps = true;
        const cudaError_t status = allow_shared<bulk_gemm_kernel<T, kRow, kMajorA, kMajorB>>(grid.shared_bytes);
        if (status != cudaSuccess) return status;
        return launch<bulk_gemm_kernel<T, kRow, kMajorA, kMajorB>>(grid, stream, arguments, bulk);
    } else {
        const cudaError_t status = allow_shared<gemm_kernel<T, kRow, kMajorA, kMajorB>>(grid.shared_bytes);
        return status != cudaSuccess ? status : launch<gemm_kernel<T, kRow, kMajorA, kMajorB>>(grid, stream, arguments);
    }
}

template <class T, int kRow>
cudaError_t launch_row(const GemmArguments& arguments, const BulkArguments& bulk, Major a, Major b, unsigned blocks,
                       cudaStream_t stream) {
    if (a == Major::k) {
        return b == Major::k ? launch_layout<T, kRow, Major::k, Major::k>(arguments, bulk, blocks, stream)
                             : launch_layout<T, kRow, Major::k, Major::mn>(arguments, bulk, blocks, stream);
    }
    return b == Major::k ? launch_layout<T, kRow, Major::mn, Major::k>(arguments, bulk, blocks, stream)
                         : launch_layout<T, kRow, Major::mn, Major::mn>(arguments, bulk, blocks, stream);
}

}  // namespace halfops::linear

#define HALFOPS_LINEAR_ROW(T, row)                                                                                \
    template cudaError_t halfops::linear::launch_row<halfops::T, row>(const GemmArguments&, const BulkArguments&, \
                                                                      Major, Major, unsigned, cudaStream_t);
