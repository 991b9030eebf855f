#if defined(__x86_64__)
#define HALFOPS_VARIANT_AVX2
#include "core/variant.h"
//
#include "scale/scale_cpu.inl.h"

namespace halfops::scale {
const CpuEngine kAvx2 = {HALFOPS_VARIANT::any_nonfinite, HALFOPS_VARIANT::grad_stats, HALFOPS_VARIANT::unscale};
}
#endif
