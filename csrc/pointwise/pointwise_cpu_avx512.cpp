#if defined(__x86_64__)
#define HALFOPS_VARIANT_AVX512
#include "core/variant.h"
//
#include "pointwise/pointwise_cpu.inl.h"

namespace halfops::pointwise {
const CpuEngine kAvx512 = {HALFOPS_VARIANT::activate, HALFOPS_VARIANT::activate_backward,
                           HALFOPS_VARIANT::gate,     HALFOPS_VARIANT::gate_backward,
                           HALFOPS_VARIANT::add_rows, HALFOPS_VARIANT::narrow_sums};
}
#endif
