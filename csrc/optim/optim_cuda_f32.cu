#include "optim/sets.cuh"

namespace halfops::optim {
cudaError_t launch_f32(const SetLaunch& set) { return launch_set<float>(set, update::AllRules{}); }
}  // namespace halfops::optim
