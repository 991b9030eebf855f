#define HALFOPS_VARIANT_PORTABLE
#include "core/variant.h"
//
#include "scale/scale_cpu.inl.h"

namespace halfops::scale {
const CpuEngine kPortable = {HALFOPS_VARIANT::any_nonfinite, HALFOPS_VARIANT::grad_stats, HALFOPS_VARIANT::unscale};
}
