// One row of the table of policies, launched: an instance a dtype and row, each in a file of instances/.
#pragma once

#include "linear/kernel.cuh"

namespace halfops::linear {

template <class T, int kRow>
cudaError_t launch_row(const GemmArguments& arguments, Major a, Major b, cudaStream_t stream);

using LaunchRow = cudaError_t (*)(const GemmArguments&, Major, Major, cudaStream_t);

}  // namespace halfops::linear
