#include "scale/scale_cpu.h"

#include <atomic>

#include "core/cpu_variant.h"
#include "core/shape.h"

namespace halfops::scale::cpu {
namespace {

constexpr int64_t kChunk = 1 << 16;  // elements

const CpuEngine& engine() {
#if defined(__x86_64__)
    return pick(&kPortable, &kAvx2, &kAvx512);
#else
    return kPortable;
#endif
}

}  // namespace

void nonfinite_check(const Span* tensors, int64_t count, const Parallel& parallel, float* found_inf) {
    std::atomic<bool> found = false;
    for (int64_t t = 0; t < count; ++t) {
        const Span& span = tensors[t];
        parallel(ceil_div(span.numel, kChunk), 1, [&](int64_t begin, int64_t end) {
            for (int64_t chunk = begin; chunk < end; ++chunk) {
                const int64_t last = smaller(span.numel, (chunk + 1) * kChunk);
                if (engine().any_nonfinite(span, chunk * kChunk, last)) found.store(true, std::memory_order_relaxed);
            }
        });
    }
    *found_inf = found.load() ? 1.0f : 0.0f;
}

}  // namespace halfops::scale::cpu
