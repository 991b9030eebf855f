// One row of the table of policies, launched: an instance a dtype and row, each in a file of instances/.
#pragma once

#include "linear/bulk.h"
#include "linear/kernel.cuh"

namespace halfops::linear {

template <class T, int kRow>
cudaError_t launch_row(const GemmArguments& arguments, const BulkArguments& bulk, Major a, Major b, unsigned blocks,
                       cudaStream_t stream);

using LaunchRow = cudaError_t (*)(const GemmArguments&, const BulkArguments&, Major, Major, unsigned, cudaStream_t);

}  // namespace halfops::linear
