// What each CPU variant of the optim engine offers; optim_cpu.cpp picks one.
#pragma once

#include <cstring>

#include "core/chunks.h"
#include "optim/optim.h"

namespace halfops::optim {

// The scalars of one tensor's rule, of whatever type that rule's are.
struct AnyScalars {
    alignas(8) unsigned char bytes[64];

    template <class Scalars>
    HALFOPS_INLINE Scalars as() const {
        static_assert(sizeof(Scalars) <= sizeof(bytes), "a rule's scalars must fit into AnyScalars");
        Scalars scalars;
        memcpy(&scalars, bytes, sizeof(scalars));
        return scalars;
    }
    template <class Scalars>
    HALFOPS_INLINE void set(const Scalars& scalars) {
        static_assert(sizeof(Scalars) <= sizeof(bytes), "a rule's scalars must fit into AnyScalars");
        memcpy(bytes, &scalars, sizeof(scalars));
    }
};

// One tensor in one step.
struct Job {
    ParamTensor tensor;
    AnyScalars scalars;
    int rule;
    Rounding rounding;
    uint64_t seed;
    uint32_t step;
    float ema_weight;
    bool zero_grad;
};

// The gradients of elements [begin, end) become 0.
HALFOPS_INLINE void zero_gradient(const ParamTensor& tensor, int64_t begin, int64_t end) {
    const int64_t bytes = bytes_of(tensor.dtype);
    memset(static_cast<char*>(tensor.grad) + begin * bytes, 0, static_cast<size_t>((end - begin) * bytes));
}

// Of a chunk (core/chunks.h), or of all of a tensor.
struct Norms {
    double weight_sq, direction_sq;
};

// What a thread takes at once.
inline constexpr int64_t kRange = 1 << 15;
static_assert(kRange % kChunk == 0, "a chunk is one thread's");

// All on elements [begin, end) of a tensor; begin is a multiple of kRange.
struct CpuEngine {
    void (*update)(const Job& job, int64_t begin, int64_t end);
    // rules that need norms, before update: each chunk gets its own of `out`
    void (*measure)(const Job& job, int64_t begin, int64_t end, Norms* out);
    void (*split)(const float* master, DType dtype, void* weight, int16_t* remainder, int64_t begin, int64_t end);
    void (*join)(DType dtype, const void* weight, const int16_t* remainder, float* master, int64_t begin, int64_t end);
    void (*cast)(const cpu::Cast& cast, const void* source, void* target, int64_t begin, int64_t end);
};

extern const CpuEngine kPortable;
#if defined(__x86_64__)
extern const CpuEngine kAvx2, kAvx512;
#endif

}  // namespace halfops::optim
