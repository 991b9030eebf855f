// Which of the host's instruction sets the CPU engines use: chosen once at load, from cpuid.
//
// Every engine is compiled three times from one source (variant.h); the results are the same to the bit, only the
// speed differs. HALFOPS_CPU_VARIANT=portable|avx2|avx512 in the environment overrides the choice (downwards only).
#pragma once

#include <string>
#include <vector>

namespace halfops {

enum class CpuVariant { portable = 0, avx2 = 1, avx512 = 2 };

CpuVariant cpu_variant();
std::string cpu_variant_name();
std::vector<std::string> cpu_variants_available();  // slowest first
void set_cpu_variant(const std::string& name);      // throws when this CPU does not have it

// The engine table for the variant in force. Tables that do not exist on this architecture are null.
template <class Table>
const Table& pick(const Table* portable, const Table* avx2, const Table* avx512) {
    switch (cpu_variant()) {
        case CpuVariant::avx512:
            return *avx512;
        case CpuVariant::avx2:
            return *avx2;
        case CpuVariant::portable:
            return *portable;
    }
    return *portable;
}

}  // namespace halfops
