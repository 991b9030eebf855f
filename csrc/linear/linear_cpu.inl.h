// The linear engine's row loops, compiled once for each CPU variant.
#pragma once

#include "core/convert.inl.h"
#include "linear/epilogue.h"
#include "linear/linear_cpu.h"

namespace halfops {
namespace HALFOPS_VARIANT {
namespace {

constexpr int64_t kBlock = 512;  // floats: several such buffers stay in L1

template <class T>
HALFOPS_INLINE void widen_strided(const T* source, int64_t stride, int64_t n, float* target) {
    if (stride == 1) {
        widen(source, target, n);
    } else {
        for (int64_t i = 0; i < n; ++i) target[i] = to_f32(source[i * stride]);
    }
}

void widen_row(const void* source, DType dtype, int64_t stride, int64_t n, float* target) {
    switch (dtype) {
        case DType::f16:
            return widen_strided(static_cast<const f16*>(source), stride, n, target);
        case DType::bf16:
            return widen_strided(static_cast<const bf16*>(source), stride, n, target);
        default:
            return widen_strided(static_cast<const float*>(source), stride, n, target);
    }
}

void narrow_row(const float* source, DType dtype, void* target, int64_t offset, int64_t n) {
    switch (dtype) {
        case DType::f16:
            return narrow(source, static_cast<f16*>(target) + offset, n);
        case DType::bf16:
            return narrow(source, static_cast<bf16*>(target) + offset, n);
        default:
            return narrow(source, static_cast<float*>(target) + offset, n);
    }
}

HALFOPS_INLINE const void* advanced(const void* data, DType dtype, int64_t elements) {
    return static_cast<const char*>(data) + elements * (dtype == DType::f32 ? 4 : 2);
}

template <class A>
struct Apply {
    static void value(float* z, int64_t n) {
        for (int64_t i = 0; i < n; ++i) z[i] = linear::Activate<A>{}(z[i]);
    }
    static void gradient(float* dy, const float* z, int64_t n) {
        for (int64_t i = 0; i < n; ++i) dy[i] = linear::ActivationGradient<A>{}(dy[i], z[i]);
    }
    // dh becomes the gate's gradient, up its own.
    static void gated_gradient(float* dh, const float* gate, float* up, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
            const float to_up = linear::UpGradient<A>{}(dh[i], gate[i]);
            dh[i] = linear::GateGradient<A>{}(dh[i], gate[i], up[i]);
            up[i] = to_up;
        }
    }
};

void apply_value(Activation activation, float* z, int64_t n) {
    with_activation(activation, [=](auto a) { Apply<decltype(a)>::value(z, n); });
}

void apply_gradient(Activation activation, float* dy, const float* z, int64_t n) {
    with_activation(activation, [=](auto a) { Apply<decltype(a)>::gradient(dy, z, n); });
}

void apply_gated_gradient(Activation activation, float* dh, const float* gate, float* up, int64_t n) {
    with_activation(activation, [=](auto a) { Apply<decltype(a)>::gated_gradient(dh, gate, up, n); });
}

// One step after the other over a block in L1; each step is the formula of epilogue.h.
void epilogue_row(const linear::RowEpilogue& row, const float* acc, int64_t n) {
    alignas(64) float v[kBlock], other[kBlock], up[kBlock];
    for (int64_t begin = 0; begin < n; begin += kBlock) {
        const int64_t count = smaller(kBlock, n - begin);
        for (int64_t i = 0; i < count; ++i) v[i] = linear::Scale{row.alpha}(acc[begin + i]);
        if (row.bias != nullptr) {
            widen_row(advanced(row.bias, row.bias_dtype, begin), row.bias_dtype, 1, count, other);
            for (int64_t i = 0; i < count; ++i) v[i] = linear::AddBias{}(v[i], other[i]);
        }
        if (row.grad_preact != nullptr) {
            const DType dtype = row.grad_preact_dtype;
            const void* z = advanced(row.grad_preact, dtype, begin * row.grad_preact_stride);
            widen_row(z, dtype, row.grad_preact_stride, count, other);
            if (row.grad_up == nullptr) {
                apply_gradient(row.activation, v, other, count);
            } else {
                const void* factor = advanced(row.grad_up, row.grad_up_dtype, begin * row.grad_up_stride);
                widen_row(factor, row.grad_up_dtype, row.grad_up_stride, count, up);
                apply_gated_gradient(row.activation, v, other, up, count);
                narrow_row(up, row.out_dtype, row.out2, begin, count);
            }
        } else if (row.activation != Activation::none) {
            void* z = row.preact == nullptr ? static_cast<void*>(other) : row.preact;
            const int64_t at = row.preact == nullptr ? 0 : begin;
            narrow_row(v, row.out_dtype, z, at, count);
            widen_row(advanced(z, row.out_dtype, at), row.out_dtype, 1, count, v);
            apply_value(row.activation, v, count);
        } else if (row.preact != nullptr) {
            narrow_row(v, row.out_dtype, row.preact, begin, count);
        }
        if (row.c != nullptr) {
            widen_row(advanced(row.c, row.c_dtype, begin * row.c_stride), row.c_dtype, row.c_stride, count, other);
            for (int64_t i = 0; i < count; ++i) v[i] = linear::AddScaled{row.beta}(v[i], other[i]);
        }
        narrow_row(v, row.out_dtype, row.out, begin, count);
    }
}

}  // namespace
}  // namespace HALFOPS_VARIANT
}  // namespace halfops
