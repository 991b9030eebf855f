// What each CPU variant of the scale engine offers; scale_cpu.cpp picks one.
#pragma once

#include "scale/scale.h"

namespace halfops::scale {

// Of one piece of one tensor. An infinite or NaN element makes the sum infinite or NaN, and nothing else can: squares
// of fp16 are summed where 512 of the largest stay finite, all others in double. So the sum is the flag.
struct PieceStats {
    double sum_of_squares;
    int64_t zeros;
};

struct CpuEngine {
    bool (*any_nonfinite)(const Span& span, int64_t begin, int64_t end);
    PieceStats (*grad_stats)(const Span& span, int64_t begin, int64_t end, bool count_zeros);
    PieceStats (*unscale)(const MutableSpan& span, int64_t begin, int64_t end, float inv_scale, bool count_zeros);
};

extern const CpuEngine kPortable;
#if defined(__x86_64__)
extern const CpuEngine kAvx2, kAvx512;
#endif

}  // namespace halfops::scale
