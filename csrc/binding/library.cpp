// Every op's schema, one page. What the arguments mean is documented in halfops/functional.py and halfops/optim/.
//
// Importing the Python module loads this library, which registers the ops; the module's own functions are in
// python.cpp.
#include "binding/python.h"
#include "binding/tensor.h"
#include "core/cpu_variant.h"

namespace {

struct Schema {
    const char *name, *arguments, *returns;
};

// The products and what surrounds them. Each has a check_<name> too, of the same arguments: the refusals alone.
constexpr Schema kProducts[] = {
    // linear: y = act(x w^T + b) + residual, x [*, K], w [N, K]; preact is empty unless save_preact
    {"linear", "Tensor input, Tensor weight, Tensor? bias, Tensor? residual, str activation, bool save_preact",
     "(Tensor output, Tensor preact)"},
    // dx = (dz w) * act'(preact); preact belongs to the layer below, [*, K], and grad_bias is that layer's: the column
    // sums of dx as it is stored. What is not asked for comes back empty
    {"linear_dgrad", "Tensor grad_output, Tensor weight, Tensor? preact, str activation, bool want_bias",
     "(Tensor grad_input, Tensor grad_bias)"},
    // dw = dz^T x (+ accumulate), db = column sums of dz; stats [3] float64: dw's sum of squares, 1 if any element is
    // not finite else 0, and 0
    {"linear_wgrad",
     "Tensor grad_output, Tensor input, Tensor? accumulate, bool want_weight, bool want_bias, bool want_stats",
     "(Tensor grad_weight, Tensor grad_bias, Tensor stats)"},
    {"linear_wgrad_", "Tensor(a!) grad_weight, Tensor grad_output, Tensor input, bool want_stats", "Tensor stats"},
    // h = act(x wg^T + bg) * (x wu^T + bu); saves the two factors' inputs when asked
    {"gated_linear",
     "Tensor input, Tensor gate_weight, Tensor up_weight, Tensor? gate_bias, Tensor? up_bias, str activation, "
     "bool save_preact",
     "(Tensor output, Tensor gate, Tensor up)"},
    // dx = dgate wg + dup wu, rounded once
    {"gated_linear_dgrad", "Tensor grad_gate, Tensor grad_up, Tensor gate_weight, Tensor up_weight", "Tensor"},
    // dh = dy w, not rounded; dgate = dh * up * act'(gate), dup = dh * act(gate), and the column sums of both
    {"gated_dgrad", "Tensor grad_output, Tensor weight, Tensor gate, Tensor up, str activation, bool want_bias",
     "(Tensor grad_gate, Tensor grad_up, Tensor gate_bias_grad, Tensor up_bias_grad)"},
    {"matmul", "Tensor input, Tensor other, Tensor? c, float alpha, float beta, ScalarType? out_dtype", "Tensor"},
};

std::string signature(const std::string& name, const std::string& arguments, const char* returns) {
    return name + "(" + arguments + ") -> " + returns;
}

// A check writes nothing.
std::string without_writes(std::string arguments) {
    const std::string mark = "(a!)";
    if (const size_t at = arguments.find(mark); at != std::string::npos) arguments.erase(at, mark.size());
    return arguments;
}

}  // namespace

STABLE_TORCH_LIBRARY(halfops, m) {
    for (const Schema& s : kProducts) {
        m.def(signature(s.name, s.arguments, s.returns).c_str());
        m.def(signature(std::string("check_") + s.name, without_writes(s.arguments), "()").c_str());
    }
    m.def("activation(Tensor preact, str activation) -> Tensor");
    m.def("activation_backward(Tensor grad_output, Tensor preact, str activation) -> Tensor");
    m.def("gated_activation(Tensor gate, Tensor up, str activation) -> Tensor");
    m.def(
        "gated_activation_backward(Tensor grad_output, Tensor gate, Tensor up, str activation) "
        "-> (Tensor grad_gate, Tensor grad_up)");
    // which rows the CUDA kernels' table of policies has, the one that this thread's plans take from now on ('' ends
    // it; blocks 0: as many as the plan says), and what this thread's last one came to
    m.def("linear_policies() -> str[]");
    m.def("linear_force_policy(str name, int blocks) -> ()");
    m.def("linear_last_plan() -> str");

    // scale: one read gives flag, sum of squares and, per tensor, [sum of squares, non-finite, zeros]
    m.def("nonfinite_check(Tensor[] tensors) -> Tensor");
    m.def(
        "grad_stats(Tensor[] tensors, bool count_zeros) -> (Tensor found_inf, Tensor sum_of_squares, Tensor "
        "per_tensor)");
    m.def(
        "unscale_(Tensor(a!)[] tensors, Tensor inv_scale, bool count_zeros) "
        "-> (Tensor found_inf, Tensor sum_of_squares, Tensor per_tensor)");
    m.def(
        "scale_update_(Tensor(a!) scale, Tensor(b!) growth_tracker, Tensor(c!) hysteresis_tracker, "
        "Tensor(d!) skipped_steps, Tensor found_inf, float growth_factor, float backoff_factor, int growth_interval, "
        "int hysteresis, float min_scale, float max_scale) -> ()");

    // optim: one step of every tensor. rows [n, 2] int64: the tensor's row in hyper, its key for stochastic rounding.
    // emas: empty, or one a parameter. grads are written only with zero_grad
    m.def(
        "optim_step_(str rule, Tensor(a!)[] params, Tensor(f!)[] grads, Tensor(b!)[] masters, Tensor(c!)[] states, "
        "Tensor(e!)[] emas, Tensor(d!) steps, Tensor rows, Tensor hyper, Tensor? grad_scale, Tensor? found_inf, "
        "Tensor? sum_of_squares, float? max_grad_norm, float? ema_decay, str rounding, int seed, bool zero_grad) -> "
        "()");

    // A plan is what such a step needs but for gradients and numbers, kept under an id (optim_plan.h). Gradients are
    // the parameters' own where optim_plan_refresh says 0, those that optim_plan_take was given where it says 1; at 2 a
    // tensor of the plan has moved and the plan is of no use any more.
    m.def(
        "optim_plan(str rule, Tensor[] params, Tensor[] masters, Tensor[] states, Tensor[] emas, Tensor steps, "
        "Tensor rows, str rounding) -> int");
    m.def("optim_plan_free(int plan) -> ()");
    m.def("optim_plans() -> int[]");
    m.def("optim_plans_apart(int[] plans) -> bool");
    m.def("optim_plan_refresh(int plan, bool zero_grad) -> int");
    m.def("optim_plan_take(int plan, Tensor[] grads, bool zero_grad) -> ()");
    m.def("optim_plan_release(int plan) -> ()");
    m.def(
        "optim_plan_stats(int plan, bool count_zeros) -> (Tensor found_inf, Tensor sum_of_squares, Tensor "
        "per_tensor)");
    m.def(
        "optim_plan_step(int plan, Tensor hyper, Tensor? grad_scale, Tensor? found_inf, Tensor? sum_of_squares, "
        "float? max_grad_norm, float? ema_decay, bool zero_grad, int seed) -> ()");
    // whether gradients are read without Python (autograd_grad.h)
    m.def("optim_grad_access() -> bool");
    m.def("set_optim_grad_access(bool on) -> ()");

    // a CPU tensor's numbers into a tensor of 8-byte numbers on any device, without a wait; a CUDA graph keeps them
    m.def("write_(Tensor(a!) target, Tensor values) -> ()");
    // conversions between a 16-bit weight with its 16-bit remainder and the float32 master that the pair stands for
    m.def("split_master(Tensor master, ScalarType dtype) -> (Tensor weight, Tensor remainder)");
    m.def("join_master(Tensor weight, Tensor remainder) -> Tensor");
    // with the rounding named; "stochastic" draws what element i of tensor `key` draws in step `step`
    m.def("cast(Tensor input, ScalarType dtype, str rounding, int seed, int step, int key) -> Tensor");
    // what a rule declares: its columns of hyper, its moments
    m.def("optim_rules() -> str[]");
    m.def("optim_hyper_names(str rule) -> str[]");
    m.def("optim_state_names(str rule) -> str[]");

    m.def("cpu_variant() -> str");
    m.def("cpu_variants() -> str[]");
    m.def("set_cpu_variant(str name) -> ()");
}

namespace halfops::binding {
namespace {
std::vector<std::string> cpu_variants() { return cpu_variants_available(); }
void set_variant(std::string name) { set_cpu_variant(name); }
std::string variant() { return cpu_variant_name(); }
}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CompositeExplicitAutograd, m) {
    m.impl("cpu_variant", TORCH_BOX(&variant));
    m.impl("cpu_variants", TORCH_BOX(&cpu_variants));
    m.impl("set_cpu_variant", TORCH_BOX(&set_variant));
}
}  // namespace halfops::binding

PyMODINIT_FUNC PyInit__C() {
    static PyModuleDef module = {PyModuleDef_HEAD_INIT,
                                 "_C",
                                 nullptr,
                                 -1,
                                 halfops::binding::python_functions,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr};
    return PyModule_Create(&module);
}
