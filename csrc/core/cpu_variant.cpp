#include "core/cpu_variant.h"

#include <atomic>
#include <cstdlib>

#include "core/error.h"

namespace halfops {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512"};

CpuVariant best() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx512) return CpuVariant::avx512;
    if (avx2) return CpuVariant::avx2;
#endif
    return CpuVariant::portable;
}

CpuVariant parse(const std::string& name) {
    for (int i = 0; i <= static_cast<int>(best()); ++i) {
        if (name == kNames[i]) return static_cast<CpuVariant>(i);
    }
    fail("HALFOPS_CPU_VARIANT: got '", name, "', wanted one that this CPU has: portable up to ",
         kNames[static_cast<int>(best())], "; unset it to let halfops choose");
}

std::atomic<CpuVariant>& current() {
    static std::atomic<CpuVariant> variant = [] {
        const char* asked = std::getenv("HALFOPS_CPU_VARIANT");
        return asked != nullptr && *asked != '\0' ? parse(asked) : best();
    }();
    return variant;
}

}  // namespace

CpuVariant cpu_variant() { return current().load(std::memory_order_relaxed); }

std::string cpu_variant_name() { return kNames[static_cast<int>(cpu_variant())]; }

std::vector<std::string> cpu_variants_available() { return {kNames, kNames + static_cast<int>(best()) + 1}; }

void set_cpu_variant(const std::string& name) { current().store(parse(name)); }

}  // namespace halfops
