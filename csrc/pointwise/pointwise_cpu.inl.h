// The pointwise engine's loops, compiled once for each CPU variant.
#pragma once

#include "core/convert.inl.h"
#include "math/activation.h"
#include "pointwise/pointwise_cpu.h"

namespace halfops {
namespace HALFOPS_VARIANT {
namespace {

using pointwise::Elements;

constexpr int64_t kBlock = 512;  // floats: several such buffers stay in L1

// f(T{}) with the element type for a dtype.
template <class F>
HALFOPS_INLINE void with_dtype(DType dtype, const F& f) {
    switch (dtype) {
        case DType::f16:
            return f(f16{});
        case DType::bf16:
            return f(bf16{});
        default:
            return f(float{});
    }
}

void load(DType dtype, const void* source, int64_t begin, int64_t n, float* target) {
    with_dtype(dtype, [=](auto t) { widen(static_cast<const decltype(t)*>(source) + begin, target, n); });
}

void store(DType dtype, const float* source, void* target, int64_t begin, int64_t n) {
    with_dtype(dtype, [=](auto t) { narrow(source, static_cast<decltype(t)*>(target) + begin, n); });
}

void activate(const Elements& e, int64_t begin, int64_t end) {
    alignas(64) float z[kBlock];
    for (; begin < end; begin += kBlock) {
        const int64_t n = smaller(kBlock, end - begin);
        load(e.dtype, e.in0, begin, n, z);
        with_activation(e.activation, [&](auto a) {
            for (int64_t i = 0; i < n; ++i) z[i] = decltype(a)::value(z[i]);
        });
        store(e.dtype, z, e.out0, begin, n);
    }
}

void activate_backward(const Elements& e, int64_t begin, int64_t end) {
    alignas(64) float dy[kBlock], z[kBlock];
    for (; begin < end; begin += kBlock) {
        const int64_t n = smaller(kBlock, end - begin);
        load(e.dtype, e.in0, begin, n, dy);
        load(e.dtype, e.in1, begin, n, z);
        with_activation(e.activation, [&](auto a) {
            for (int64_t i = 0; i < n; ++i) dy[i] = activation_gradient(a, dy[i], z[i]);
        });
        store(e.dtype, dy, e.out0, begin, n);
    }
}

void gate(const Elements& e, int64_t begin, int64_t end) {
    alignas(64) float g[kBlock], up[kBlock];
    for (; begin < end; begin += kBlock) {
        const int64_t n = smaller(kBlock, end - begin);
        load(e.dtype, e.in0, begin, n, g);
        load(e.dtype, e.in1, begin, n, up);
        with_activation(e.activation, [&](auto a) {
            for (int64_t i = 0; i < n; ++i) g[i] = Gated<decltype(a)>::value(g[i], up[i]);
        });
        store(e.dtype, g, e.out0, begin, n);
    }
}

void gate_backward(const Elements& e, int64_t begin, int64_t end) {
    alignas(64) float dh[kBlock], g[kBlock], up[kBlock];
    for (; begin < end; begin += kBlock) {
        const int64_t n = smaller(kBlock, end - begin);
        load(e.dtype, e.in0, begin, n, dh);
        load(e.dtype, e.in1, begin, n, g);
        load(e.dtype, e.in2, begin, n, up);
        with_activation(e.activation, [&](auto a) {
            using G = Gated<decltype(a)>;
            for (int64_t i = 0; i < n; ++i) {
                const float d_gate = G::gate_gradient(dh[i], g[i], up[i]);
                up[i] = G::up_gradient(dh[i], g[i]);
                g[i] = d_gate;
            }
        });
        store(e.dtype, g, e.out0, begin, n);
        store(e.dtype, up, e.out1, begin, n);
    }
}

void add_rows(DType dtype, const void* x, int64_t rows, int64_t cols, int64_t row_stride, double* total) {
    alignas(64) float lane[kBlock], value[kBlock];
    for (int64_t begin = 0; begin < cols; begin += kBlock) {
        const int64_t n = smaller(kBlock, cols - begin);
        for (int64_t j = 0; j < n; ++j) lane[j] = 0.0f;
        for (int64_t i = 0; i < rows; ++i) {
            load(dtype, x, i * row_stride + begin, n, value);
            for (int64_t j = 0; j < n; ++j) lane[j] += value[j];
        }
        for (int64_t j = 0; j < n; ++j) total[begin + j] += static_cast<double>(lane[j]);
    }
}

void narrow_sums(DType dtype, const double* total, int64_t cols, void* sums) {
    alignas(64) float value[kBlock];
    for (int64_t begin = 0; begin < cols; begin += kBlock) {
        const int64_t n = smaller(kBlock, cols - begin);
        for (int64_t j = 0; j < n; ++j) value[j] = static_cast<float>(total[begin + j]);
        store(dtype, value, sums, begin, n);
    }
}

}  // namespace
}  // namespace HALFOPS_VARIANT
}  // namespace halfops
