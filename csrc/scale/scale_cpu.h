// What each CPU variant of the scale engine offers; scale_cpu.cpp picks one.
#pragma once

#include "scale/scale.h"

namespace halfops::scale {

struct CpuEngine {
    bool (*any_nonfinite)(const Span& span, int64_t begin, int64_t end);
};

extern const CpuEngine kPortable;
#if defined(__x86_64__)
extern const CpuEngine kAvx2, kAvx512;
#endif

}  // namespace halfops::scale
