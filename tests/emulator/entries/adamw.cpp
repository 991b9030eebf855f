// The optim room with few instances of its kernels: what is run under sanitizers and with planted bugs, three builds
// each, has to compile in seconds.
#include "optim/sets.cuh"

namespace halfops::optim {

using Split = Storage<f16, MasterFormat::split, Rounding::nearest>;
using Stochastic = Storage<f16, MasterFormat::none, Rounding::stochastic>;

cudaError_t launch_f16(const SetLaunch& set) {
    if (set.rule == rule_index("lamb")) return launch_stored<update::Lamb, Split>(set);
    if (set.master_format == MasterFormat::none) return launch_stored<update::AdamW, Stochastic>(set);
    return launch_stored<update::AdamW, Split>(set);
}
cudaError_t launch_bf16(const SetLaunch&) { return cudaErrorInvalidValue; }
cudaError_t launch_f32(const SetLaunch&) { return cudaErrorInvalidValue; }

}  // namespace halfops::optim

#include "entries/optim.cpp"
