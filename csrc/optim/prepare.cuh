// Once a tensor and step: is there a step at all, what is every gradient multiplied by, the rule's scalars, the count.
#pragma once

#include <cstring>

#include "collective/pair_sums.cuh"
#include "optim/gate.h"
#include "optim/rows.cuh"

namespace halfops::optim {

inline constexpr unsigned kPrepareThreads = 128;

// One thread a row. *open is what the kernels after this one go by.
template <class Rule>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_kernel(const ParamRow* rows, int64_t count, GateInputs inputs, const double* hyper, float* steps,
                   Prepared<Rule>* prepared, int32_t* open) {
    static_assert(sizeof(typename Rule::Hyper) == update::kHypers<Rule> * sizeof(double), "one double per name");
    const int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const Gate now = gate(inputs);
    if (r == 0) *open = now.open ? 1 : 0;
    if (!now.open || r >= count) return;
    const ParamRow& row = rows[r];
    typename Rule::Hyper columns;
    memcpy(&columns, hyper + row.hyper * update::kHypers<Rule>, sizeof(columns));
    const int64_t step = static_cast<int64_t>(steps[row.index]) + 1;
    prepared[r] = {Rule::prepare(columns, step, now.grad_factor), static_cast<uint32_t>(step)};
    steps[row.index] += 1.0f;
}

// For rules that need norms: one thread a row, after the norms of its tensor are there.
template <class Rule>
__global__ void __launch_bounds__(kPrepareThreads)
    norms_kernel(const Pair* of_tensor, int64_t count, const int32_t* open, Prepared<Rule>* prepared) {
    const int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (*open == 0 || r >= count) return;
    prepared[r].scalars = Rule::with_norms(prepared[r].scalars, of_tensor[r].first, of_tensor[r].second);
}

}  // namespace halfops::optim
