// The launch of one set. Compiled once for each dtype of weights (optim_cuda_*.cu), so that builds can share the work.
#pragma once

#include <cuda_runtime.h>

#include "collective/launch.cuh"
#include "optim/step.cuh"

namespace halfops::optim {

struct SetLaunch {
    int rule;
    MasterFormat master_format;
    Rounding rounding;
    bool measure;  // the pass before the update, for rules that need norms
    SetArguments arguments;
    cudaStream_t stream;
};

cudaError_t launch_f16(const SetLaunch& set);
cudaError_t launch_bf16(const SetLaunch& set);
cudaError_t launch_f32(const SetLaunch& set);

template <auto kKernel>
cudaError_t launch_over_chunks(const SetLaunch& set) {
    Grid grid{1, kStepThreads};
    const int64_t wanted = ceil_div(set.arguments.chunks.chunks, kStepThreads / kWarpSize);
    const cudaError_t status = persistent_blocks<kKernel>(wanted, kStepThreads, &grid.blocks);
    return status == cudaSuccess ? launch<kKernel>(grid, set.stream, set.arguments) : status;
}

template <class Rule, class S>
cudaError_t launch_stored(const SetLaunch& set) {
    if constexpr (update::kNeedsNorms<Rule>) {
        if (set.measure) return launch_over_chunks<measure_kernel<Rule, S>>(set);
    }
    return launch_over_chunks<step_kernel<Rule, S>>(set);
}

template <class Rule, class T>
cudaError_t launch_rule(const SetLaunch& set) {
    if constexpr (sizeof(T) == 2) {
        switch (set.master_format) {
            case MasterFormat::split:
                return launch_stored<Rule, Storage<T, MasterFormat::split, Rounding::nearest>>(set);
            case MasterFormat::f32:
                return launch_stored<Rule, Storage<T, MasterFormat::f32, Rounding::nearest>>(set);
            case MasterFormat::none:
                if (set.rounding == Rounding::nearest) break;
                return launch_stored<Rule, Storage<T, MasterFormat::none, Rounding::stochastic>>(set);
        }
    }
    return launch_stored<Rule, Storage<T, MasterFormat::none, Rounding::nearest>>(set);
}

template <class T, class... Rules>
cudaError_t launch_set(const SetLaunch& set, update::RuleList<Rules...>) {
    static constexpr cudaError_t (*all[])(const SetLaunch&) = {launch_rule<Rules, T>...};
    return all[set.rule](set);
}

}  // namespace halfops::optim
