#include "optim/sets.cuh"

namespace halfops::optim {
cudaError_t launch_f16(const SetLaunch& set) { return launch_set<f16>(set, update::AllRules{}); }
}  // namespace halfops::optim
