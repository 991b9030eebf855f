// What each CPU variant of the scale engine offers; scale_cpu.cpp picks one.
#pragma once

#include "scale/scale.h"

namespace halfops::scale {

// Of one chunk (core/chunks.h) of one tensor. An infinite or NaN element makes the sum infinite or NaN, and nothing
// else can: a lane's squares of fp16 stay finite in float, all others in double. So the sum is the flag.
struct ChunkStats {
    double sum_of_squares;
    int64_t zeros;
};

// All on elements [begin, end) of a tensor; begin is a multiple of kChunk, and each chunk gets its own of `out`.
struct CpuEngine {
    bool (*any_nonfinite)(const Span& span, int64_t begin, int64_t end);
    void (*grad_stats)(const Span& span, int64_t begin, int64_t end, bool count_zeros, ChunkStats* out);
    void (*unscale)(const MutableSpan& span, int64_t begin, int64_t end, float inv_scale, bool count_zeros,
                    ChunkStats* out);
};

extern const CpuEngine kPortable;
#if defined(__x86_64__)
extern const CpuEngine kAvx2, kAvx512;
#endif

}  // namespace halfops::scale
