// Every conversion and rounding of core/dtype.h, math/rounding.h and math/master.h, element by element.
#include "core/rng.h"
#include "elements.cuh"
#include "math/master.h"
#include "math/rounding.h"

namespace golden {

using halfops::bf16;
using halfops::f16;

template <class From, class To, To (*kConvert)(From)>
__global__ void convert_kernel(const From* in, To* out, int64_t n) {
    if (element() < n) out[element()] = kConvert(in[element()]);
}

template <class From, class To, To (*kConvert)(From)>
void convert(const Arguments& arguments) {
    const Array in = arguments["in"];
    launched(launch<convert_kernel<From, To, kConvert>>(one_thread_each<From>(in), nullptr, in.as<const From>(),
                                                        arguments["out"].as<To>(), in.count<From>()));
}

template <class T>
__device__ T nearest(float x) {
    return halfops::from_f32<T>(x);
}
template <class T>
__device__ float widened(T x) {
    return halfops::to_f32(x);
}

const Entry to_f16("f32_to_f16", convert<float, f16, nearest<f16>>);
const Entry to_bf16("f32_to_bf16", convert<float, bf16, nearest<bf16>>);
const Entry from_f16("f16_to_f32", convert<f16, float, widened<f16>>);
const Entry from_bf16("bf16_to_f32", convert<bf16, float, widened<bf16>>);

template <class T>
__global__ void stochastic_kernel(const float* in, const uint32_t* random, T* out, int64_t n) {
    if (element() < n) out[element()] = halfops::from_f32_stochastic<T>(in[element()], random[element()]);
}

template <class T>
void stochastic(const Arguments& arguments) {
    const Array in = arguments["in"];
    launched(launch<stochastic_kernel<T>>(one_thread_each<float>(in), nullptr, in.as<const float>(),
                                          arguments["random"].as<const uint32_t>(), arguments["out"].as<T>(),
                                          in.count<float>()));
}

const Entry stochastic_f16("f32_to_f16_stochastic", stochastic<f16>);
const Entry stochastic_bf16("f32_to_bf16_stochastic", stochastic<bf16>);

// The weight and the remainder of a number, and the number that they give back.
template <class T>
__global__ void split_kernel(const float* in, T* weight, int16_t* remainder, float* back, int64_t n) {
    using Master = halfops::MasterSplit<T>;
    const int64_t i = element();
    if (i >= n) return;
    weight[i] = Master::weight(in[i]);
    remainder[i] = Master::extra(in[i], halfops::to_f32(weight[i]));
    back[i] = Master::load(halfops::to_f32(weight[i]), remainder[i]);
}

template <class T>
void split(const Arguments& arguments) {
    const Array in = arguments["in"];
    launched(launch<split_kernel<T>>(one_thread_each<float>(in), nullptr, in.as<const float>(),
                                     arguments["weight"].as<T>(), arguments["remainder"].as<int16_t>(),
                                     arguments["back"].as<float>(), in.count<float>()));
}

const Entry split_f16("split_f16", split<f16>);
const Entry split_bf16("split_bf16", split<bf16>);

__global__ void philox_kernel(const uint32_t* in, uint32_t* out, int64_t n) {
    const int64_t i = element();
    if (i >= n) return;
    const uint32_t* c = in + 6 * i;
    const halfops::Philox words = halfops::philox({c[0], c[1], c[2], c[3]}, c[4], c[5]);
    out[4 * i] = words.x0;
    out[4 * i + 1] = words.x1;
    out[4 * i + 2] = words.x2;
    out[4 * i + 3] = words.x3;
}

const Entry philox("philox", [](const Arguments& arguments) {
    const Array in = arguments["in"];
    launched(launch<philox_kernel>(one_thread_each<uint32_t[6]>(in), nullptr, in.as<const uint32_t>(),
                                   arguments["out"].as<uint32_t>(), in.count<uint32_t[6]>()));
});

}  // namespace golden
