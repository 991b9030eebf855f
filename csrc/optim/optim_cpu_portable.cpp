#define HALFOPS_VARIANT_PORTABLE
#include "core/variant.h"
//
#include "optim/optim_cpu.inl.h"

namespace halfops::optim {
const CpuEngine kPortable = {HALFOPS_VARIANT::update, HALFOPS_VARIANT::measure, HALFOPS_VARIANT::split,
                             HALFOPS_VARIANT::join, HALFOPS_VARIANT::cast};
}
