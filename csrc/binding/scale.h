#pragma once

#include <tuple>

#include "binding/tensor.h"
#include "scale/scale.h"

namespace halfops::binding {

// A non-empty list of dense tensors on one device, as the scale room takes it: flat memory, whatever the strides.
std::vector<scale::Span> spans_of(const std::vector<Tensor>& tensors, const char* name);

// What grad_stats gives, for a list of `count` tensors: found_inf, sum_of_squares, per_tensor.
using Stats = std::tuple<Tensor, Tensor, Tensor>;
Stats empty_stats(const Tensor& like, int64_t count);
scale::StatsOut pointers(const Stats& stats);

// The same for unscale_, with all that it wants.
std::vector<scale::Span> spans_to_unscale(const std::vector<Tensor>& tensors, const Tensor& inv_scale);

// The arguments of scale_update_, and what they come to once they are checked.
struct ScaleUpdateArguments {
    const Tensor &scale, &growth_tracker, &hysteresis_tracker, &skipped_steps, &found_inf;
    double growth_factor, backoff_factor;
    int64_t growth_interval, hysteresis;
    double min_scale, max_scale;
};
struct ScaleUpdate {
    scale::LossScalePointers state;
    const float* found_inf;
    LossScalePolicy policy;
};
ScaleUpdate checked_scale_update(const ScaleUpdateArguments& arguments);

}  // namespace halfops::binding
