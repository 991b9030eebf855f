// The activations as they are compiled for a GPU, whose two approximate instructions are off here by as much as the PTX
// ISA says that they may be, in one direction or the other.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>

#include "core/dtype.h"

namespace halfops::ptx {

double exp2_error, reciprocal_error;

inline float flushed(double x) { return std::fabs(x) < 0x1p-126 ? 0.0f : static_cast<float>(x); }
inline float exp2_approximately(float x) { return flushed(std::exp2(static_cast<double>(x)) * (1 + exp2_error)); }
inline float reciprocal_approximately(float x) { return flushed(1 / static_cast<double>(x) * (1 + reciprocal_error)); }

}  // namespace halfops::ptx

inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
using std::fmaxf, std::fminf;
#define __CUDA_ARCH__ 900
#include "math/activation.h"
#undef __CUDA_ARCH__

namespace py = pybind11;
using namespace halfops;

namespace {

template <class A>
void bind(py::module_& m, const std::string& name) {
    m.def((name + "_value").c_str(), py::vectorize([](float z) { return A::value(z); }));
    m.def((name + "_derivative").c_str(), py::vectorize([](float z) { return A::derivative(z); }));
}

}  // namespace

PYBIND11_MODULE(gpu_activations, m) {
    m.def("set_errors", [](double of_exp2, double of_reciprocal) {
        ptx::exp2_error = of_exp2;
        ptx::reciprocal_error = of_reciprocal;
    });
    bind<Relu>(m, "relu");
    bind<Gelu>(m, "gelu");
    bind<GeluTanh>(m, "gelu_tanh");
    bind<Silu>(m, "silu");
}
