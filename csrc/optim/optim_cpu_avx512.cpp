#if defined(__x86_64__)
#define HALFOPS_VARIANT_AVX512
#include "core/variant.h"
//
#include "optim/optim_cpu.inl.h"

namespace halfops::optim {
const CpuEngine kAvx512 = {HALFOPS_VARIANT::update, HALFOPS_VARIANT::measure, HALFOPS_VARIANT::split,
                           HALFOPS_VARIANT::join, HALFOPS_VARIANT::cast};
}
#endif
