#if defined(__x86_64__)
#define HALFOPS_VARIANT_AVX512
#include "core/variant.h"
//
#include "linear/linear_cpu.inl.h"

namespace halfops::linear {
const CpuEngine kAvx512 = {HALFOPS_VARIANT::widen_row, HALFOPS_VARIANT::epilogue_row};
}
#endif
