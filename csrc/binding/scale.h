#pragma once

#include "binding/tensor.h"
#include "scale/scale.h"

namespace halfops::binding {

// A non-empty list of contiguous tensors on one device, as the scale room takes it.
std::vector<scale::Span> spans_of(const std::vector<Tensor>& tensors, const std::string& name);

}  // namespace halfops::binding
