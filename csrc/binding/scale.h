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

}  // namespace halfops::binding
