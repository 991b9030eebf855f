#include "optim/sets.cuh"

namespace halfops::optim {
cudaError_t launch_bf16(const SetLaunch& set) { return launch_set<bf16>(set, update::AllRules{}); }
}  // namespace halfops::optim
