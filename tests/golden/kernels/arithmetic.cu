// IEEE arithmetic at operands that hurt, compiled with contraction off: each operation rounds once, subnormals count.
#include <cmath>

#include "elements.cuh"
#include "math/powi.h"

namespace golden {

template <class T>
__device__ T square_root(T x) {
    if constexpr (sizeof(T) == 4) return sqrtf(x);
    return sqrt(x);
}

// Six results of each triple: a + b, a - b, a * b, a / b, sqrt(a), a * b + c with two roundings.
template <class T>
__global__ void arithmetic_kernel(const T* in, T* out, int64_t n) {
    const int64_t i = element();
    if (i >= n) return;
    const T a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2];
    out[6 * i] = a + b;
    out[6 * i + 1] = a - b;
    out[6 * i + 2] = a * b;
    out[6 * i + 3] = a / b;
    out[6 * i + 4] = square_root(a);
    out[6 * i + 5] = a * b + c;
}

template <class T>
void arithmetic(const Arguments& arguments) {
    const Array in = arguments["in"];
    launched(launch<arithmetic_kernel<T>>(one_thread_each<T[3]>(in), nullptr, in.as<const T>(),
                                          arguments["out"].as<T>(), in.count<T[3]>()));
}

const Entry arithmetic_f32("arithmetic_f32", arithmetic<float>);
const Entry arithmetic_f64("arithmetic_f64", arithmetic<double>);

// fma(a, b, c) in double; and, as the sums of squares have it, of floats.
__global__ void fused_kernel(const double* in, double* out, int64_t n) {
    const int64_t i = element();
    if (i >= n) return;
    const double a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2];
    const double narrow = static_cast<float>(a);
    out[2 * i] = fma(a, b, c);
    out[2 * i + 1] = fma(narrow, narrow, c);
}

const Entry fused("fma_f64", [](const Arguments& arguments) {
    const Array in = arguments["in"];
    launched(launch<fused_kernel>(one_thread_each<double[3]>(in), nullptr, in.as<const double>(),
                                  arguments["out"].as<double>(), in.count<double[3]>()));
});

__global__ void powers_kernel(const double* base, const int64_t* exponent, double* out, int64_t n) {
    if (element() < n) out[element()] = halfops::powi(base[element()], exponent[element()]);
}

const Entry powers("powi", [](const Arguments& arguments) {
    const Array base = arguments["base"];
    launched(launch<powers_kernel>(one_thread_each<double>(base), nullptr, base.as<const double>(),
                                   arguments["exponent"].as<const int64_t>(), arguments["out"].as<double>(),
                                   base.count<double>()));
});

}  // namespace golden
