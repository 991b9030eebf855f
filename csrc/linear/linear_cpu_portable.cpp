#define HALFOPS_VARIANT_PORTABLE
#include "core/variant.h"
//
#include "linear/linear_cpu.inl.h"

namespace halfops::linear {
const CpuEngine kPortable = {HALFOPS_VARIANT::widen_row, HALFOPS_VARIANT::epilogue_row};
}
