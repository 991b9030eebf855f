// What an optimizer keeps in C++ from step to step: checked rows and handles for one device and one rule.
//
// Ten thousand tensors take longer to hand to an op, and to check, than their step; they rarely change. So optim_plan
// takes them once. A step is then: optim_plan_refresh, which looks at every handle (did memory move, which gradients
// are there) and says whether Python has to, optim_plan_stats where the norm is wanted, optim_plan_step. A plan is a
// number to Python; its parameters, masters and moments live as long as it does.
//
// A gradient is the parameter's own, read by autograd_grad.h, or one that optim_plan_take was given (a copy in the
// parameter's order of elements, or where reading does not work); the latter are kept until the step is over.
#pragma once

#include <memory>
#include <mutex>

#include "binding/autograd_grad.h"
#include "binding/optim.h"
#include "binding/scale.h"

namespace halfops::binding {

// Bytes [begin, end).
struct Extent {
    uintptr_t begin, end;
};
Extent extent_of_gradient(const optim::ParamTensor& tensor);

struct Plan {
    int rule;
    optim::Rounding rounding;
    bool cuda;
    int32_t device_index;
    std::vector<Tensor> params, masters, states, emas;  // states: state-major; emas: none, or one a parameter
    Tensor steps, rows;
    std::vector<int64_t> shapes;       // of every parameter: dim, sizes, strides
    std::vector<size_t> shape_at;      // where each begins
    std::vector<const void*> impls;    // torch's objects behind the handles, parameter by parameter; none: not known
    std::vector<Extent> written;       // all that a step writes, sorted, but for gradients
    std::vector<uint32_t> grad_order;  // parameters by the address of their gradients

    std::vector<optim::ParamTensor> tensors;  // grad: as last looked at; hyper: as in the last step
    std::vector<Tensor> taken;                // gradients that Python gave, until the step is over
    bool reads_gradients = false;             // autograd_grad.h agreed with what Python gave
    bool ready = false;                       // gradients are looked at; a step uses this up
    bool ready_to_zero = false;               // and none shares memory with another
    bool overlap_known = false, grads_share = false;
    std::optional<Tensor> hyper;  // the last step's, and its number of rows
    int64_t groups = 0;

    // For an engine that keeps the rows elsewhere: what changed since it last cleared these.
    bool tensors_changed = true, grads_changed = true;
    std::shared_ptr<void> device;  // whatever that engine keeps

    std::mutex mutex;  // one op at a time

    const optim::RuleInfo& info() const { return optim::rules()[static_cast<size_t>(rule)]; }
    OptimLists lists() const { return {params, masters, states, emas, steps, rows}; }
};

enum class Readiness : int64_t { fine = 0, gradients = 1, memory = 2 };

// Looks at all handles. fine: the gradients of `tensors` are up to date. gradients: Python has to gather them (one
// appeared, vanished, lies in another order, overlaps, or cannot be read here). memory: a parameter or state moved.
Readiness refresh(Plan& plan, bool zero_grad);
// Gradients from Python, checked.
void take(Plan& plan, std::vector<Tensor> grads, bool zero_grad);
// What refresh compares with; once, when the plan is made.
void remember_memory(Plan& plan);

// The engine of CUDA tensors. Both work on the current device and stream of plan.device_index, read plan.tensors, and
// clear plan.tensors_changed and plan.grads_changed when they have taken the changes over (grads_changed: `grad` of
// a row; tensors_changed: anything else but `hyper`, which `rows` and the step's table stand for). step.tensors is
// plan.tensors.data(): host memory, device pointers in it.
struct PlanBackend {
    void (*stats)(Plan& plan, bool count_zeros, const scale::StatsOut& out);
    void (*step)(Plan& plan, const optim::Step& step);
};
void set_cuda_backend(const PlanBackend& backend);  // from a *_cuda.cpp file, when the library is loaded

}  // namespace halfops::binding
