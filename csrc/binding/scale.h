#pragma once

#include "binding/tensor.h"
#include "scale/scale.h"

namespace halfops::binding {

// A non-empty list of dense tensors on one device, as the scale room takes it: flat memory, whatever the strides.
std::vector<scale::Span> spans_of(const std::vector<Tensor>& tensors, const char* name);

}  // namespace halfops::binding
