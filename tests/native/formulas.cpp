// The formula headers of csrc, element by element on NumPy arrays. 16-bit numbers travel as their bits (uint16).
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "core/rng.h"
#include "math/activation.h"
#include "math/master.h"
#include "math/powi.h"
#include "math/rounding.h"
#include "math/state.h"
#include "math/update/all.h"
#include "optim/gate.h"

namespace py = pybind11;
using namespace halfops;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// f for every element of arrays of one length.
template <class Out, class F, class... In>
Array<Out> map(const F& f, const Array<In>&... in) {
    const std::array<py::ssize_t, sizeof...(In)> sizes = {in.size()...};
    for (const py::ssize_t size : sizes) {
        if (size != sizes[0]) throw std::invalid_argument("arrays of different lengths");
    }
    Array<Out> out(sizes[0]);
    Out* target = out.mutable_data();
    for (py::ssize_t i = 0; i < sizes[0]; ++i) target[i] = f(in.data()[i]...);
    return out;
}

template <class T>
void bind_format(py::module_& m, const std::string& name) {
    m.def((name + "_to_f32").c_str(),
          [](const Array<uint16_t>& bits) { return map<float>([](uint16_t b) { return to_f32(T{b}); }, bits); });
    m.def((name + "_from_f32").c_str(),
          [](const Array<float>& x) { return map<uint16_t>([](float v) { return from_f32<T>(v).bits; }, x); });
    m.def((name + "_stochastic").c_str(), [](const Array<float>& x, const Array<uint32_t>& random) {
        return map<uint16_t>([](float v, uint32_t r) { return from_f32_stochastic<T>(v, r).bits; }, x, random);
    });
    m.def((name + "_split").c_str(), [](const Array<float>& w) {
        const auto weight = map<uint16_t>([](float v) { return MasterSplit<T>::weight(v).bits; }, w);
        const auto extra = [](float v, uint16_t b) { return MasterSplit<T>::extra(v, to_f32(T{b})); };
        return py::make_tuple(weight, map<int16_t>(extra, w, weight));
    });
    m.def((name + "_join").c_str(), [](const Array<uint16_t>& weight, const Array<int16_t>& remainder) {
        const auto load = [](uint16_t b, int16_t r) { return MasterSplit<T>::load(to_f32(T{b}), r); };
        return map<float>(load, weight, remainder);
    });
}

template <class Storage>
void bind_state(py::module_& m, const std::string& name) {
    m.def((name + "_round_trip").c_str(), [](const Array<float>& x) {
        return map<float>([](float v) { return Storage::load(Storage::store(v)); }, x);
    });
}

template <class A>
void bind_activation(py::module_& m, const std::string& name) {
    m.def((name + "_value").c_str(),
          [](const Array<float>& z) { return map<float>([](float v) { return A::value(v); }, z); });
    m.def((name + "_derivative").c_str(),
          [](const Array<float>& z) { return map<float>([](float v) { return A::derivative(v); }, z); });
}

// One step of a rule on one fp32 tensor: the new weight and states. A plain loop, nothing blocked or vectorised; how
// the squares of a tensor are summed, for rules that need norms, is the caller's business.
template <class Rule>
void bind_rule(py::module_& m) {
    m.def(Rule::kName, [](const std::vector<double>& row, int64_t step, double grad_factor, const Array<float>& grad,
                          const Array<float>& weight, const std::vector<Array<float>>& states,
                          const std::function<double(const Array<float>&)>& sum_of_squares) {
        constexpr int kArray = Rule::kStates > 0 ? Rule::kStates : 1;
        typename Rule::Hyper hyper;
        if (row.size() * sizeof(double) != sizeof(hyper)) throw std::invalid_argument("columns");
        memcpy(&hyper, row.data(), sizeof(hyper));
        auto scalars = Rule::prepare(hyper, step, grad_factor);
        const py::ssize_t n = weight.size();
        Array<float> updated(n);
        std::vector<Array<float>> moments;
        for (int k = 0; k < Rule::kStates; ++k) moments.emplace_back(n, states.at(k).data());
        const auto each = [&](const auto& f) {
            for (py::ssize_t i = 0; i < n; ++i) {
                float state[kArray] = {};
                for (int k = 0; k < Rule::kStates; ++k) state[k] = moments[k].data()[i];
                f(i, state);
                for (int k = 0; k < Rule::kStates; ++k) moments[k].mutable_data()[i] = state[k];
            }
        };
        if constexpr (update::kNeedsNorms<Rule>) {
            Array<float> direction(n);
            each([&](py::ssize_t i, auto& state) {
                direction.mutable_data()[i] = Rule::measure(scalars, grad.data()[i], weight.data()[i], state);
            });
            scalars = Rule::with_norms(scalars, sum_of_squares(weight), sum_of_squares(direction));
        }
        each([&](py::ssize_t i, auto& state) {
            updated.mutable_data()[i] = Rule::apply(scalars, grad.data()[i], weight.data()[i], state);
        });
        return py::make_tuple(updated, moments);
    });
}

template <class... Rules>
void bind_rules(py::module_& m, update::RuleList<Rules...>) {
    (bind_rule<Rules>(m), ...);
}

}  // namespace

PYBIND11_MODULE(formulas, m) {
    bind_format<f16>(m, "f16");
    bind_format<bf16>(m, "bf16");
    bind_state<StateF32>(m, "state_f32");
    bind_state<State<f16>>(m, "state_f16");
    bind_state<State<bf16>>(m, "state_bf16");
    bind_state<StateSqrt<f16>>(m, "state_sqrt_f16");
    bind_state<StateSqrt<bf16>>(m, "state_sqrt_bf16");
    bind_activation<Relu>(m, "relu");
    bind_activation<Gelu>(m, "gelu");
    bind_activation<GeluTanh>(m, "gelu_tanh");
    bind_activation<Silu>(m, "silu");
    bind_rules(m, update::AllRules{});
    m.def("philox", [](const std::array<uint32_t, 4>& c, const std::array<uint32_t, 2>& key) {
        const Philox out = philox({c[0], c[1], c[2], c[3]}, key[0], key[1]);
        return py::make_tuple(out.x0, out.x1, out.x2, out.x3);
    });
    m.def("random_bits", [](uint64_t seed, uint32_t step, const Array<uint64_t>& element, uint32_t key) {
        return map<uint32_t>([=](uint64_t e) { return random_bits(seed, step, e, key); }, element);
    });
    m.def("powi", [](double base, int64_t exponent) { return powi(base, exponent); });
    m.def("gate", [](double grad_scale, double found_inf, double sum_of_squares, double max_grad_norm) {
        const optim::Gate gate = optim::gate(grad_scale, found_inf, sum_of_squares, max_grad_norm);
        return py::make_tuple(gate.open, gate.grad_factor);
    });
}
