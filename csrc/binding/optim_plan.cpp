// The plans, and the ops on them. A plan knows its device, so these ops are registered for all of them at once.
#include "binding/optim_plan.h"

#include <algorithm>
#include <map>

namespace halfops::binding {
namespace {

// Never destroyed: when the process ends, torch may be gone before a static object of ours is.
struct Registry {
    std::mutex mutex;
    std::map<int64_t, std::shared_ptr<Plan>> plans;
    int64_t next = 1;

    static Registry& get() {
        static Registry* all = new Registry;
        return *all;
    }
};

std::shared_ptr<Plan> plan_of(int64_t id) {
    Registry& all = Registry::get();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.plans.find(id);
    check(found != all.plans.end(), "plan: got ", id, ", wanted the number of a plan that optim_plan has made and ",
          "optim_plan_free has not been given");
    return found->second;
}

PlanBackend& cuda_backend() {
    static PlanBackend backend = {nullptr, nullptr};
    return backend;
}

void check_device(const Tensor& param) {
    if (param.is_cpu() || (param.is_cuda() && cuda_backend().step != nullptr)) return;
    fail("parameter 0: is on ", param.is_cuda() ? "cuda:" + std::to_string(param.get_device_index()) : "another device",
         ", for which this build of halfops has no optimizer; move the model, as in model.cpu(), and run `python -m "
         "halfops doctor` to see what there is");
}

void check_ready(const Plan& plan, int64_t id) {
    check(plan.ready, "plan: got ", id, ", whose gradients have not been looked at since its last step; call ",
          "optim_plan_refresh, and optim_plan_take where that says 1");
}

int64_t optim_plan(std::string rule, std::vector<Tensor> params, std::vector<Tensor> masters,
                   std::vector<Tensor> states, std::vector<Tensor> emas, Tensor steps, Tensor rows,
                   std::string rounding) {
    check(!params.empty(), "params: got an empty list, wanted at least one parameter");
    const auto plan = std::make_shared<Plan>();
    plan->rule = optim::rule_index(rule);
    plan->rounding = rounding_of(rounding);
    check_device(params[0]);
    plan->cuda = params[0].is_cuda();
    plan->device_index = params[0].get_device_index();
    plan->params = std::move(params);
    plan->masters = std::move(masters);
    plan->states = std::move(states);
    plan->emas = std::move(emas);
    plan->steps = steps;
    plan->rows = rows;
    plan->tensors = param_tensors(plan->lists(), plan->info(), Order::as_parameter);
    check_disjoint(plan->tensors, plan->info().states.size(), false);
    remember_memory(*plan);

    Registry& all = Registry::get();
    const std::lock_guard<std::mutex> lock(all.mutex);
    all.plans.emplace(all.next, plan);
    return all.next++;
}

void optim_plan_free(int64_t id) {
    std::shared_ptr<Plan> last;  // dies after the lock: what it holds may call into Python, which may call us
    Registry& all = Registry::get();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.plans.find(id);
    if (found == all.plans.end()) return;
    last = std::move(found->second);
    all.plans.erase(found);
}

std::vector<int64_t> optim_plans() {
    Registry& all = Registry::get();
    const std::lock_guard<std::mutex> lock(all.mutex);
    std::vector<int64_t> ids;
    for (const auto& [id, plan] : all.plans) ids.push_back(id);
    return ids;
}

// Whether no gradient of one plan shares memory with one of another; what is zeroed by one is not read by the next.
bool optim_plans_apart(std::vector<int64_t> ids) {
    std::vector<Extent> grads;
    for (const int64_t id : ids) {
        const auto plan = plan_of(id);
        const std::lock_guard<std::mutex> lock(plan->mutex);
        check_ready(*plan, id);
        for (const optim::ParamTensor& tensor : plan->tensors) grads.push_back(extent_of_gradient(tensor));
    }
    std::sort(grads.begin(), grads.end(), [](Extent a, Extent b) { return a.begin < b.begin; });
    uintptr_t end = 0;
    for (const Extent& grad : grads) {
        if (grad.begin < grad.end && grad.begin < end) return false;
        end = std::max(end, grad.end);
    }
    return true;
}

int64_t optim_plan_refresh(int64_t id, bool zero_grad) {
    const auto plan = plan_of(id);
    const std::lock_guard<std::mutex> lock(plan->mutex);
    return static_cast<int64_t>(refresh(*plan, zero_grad));
}

void optim_plan_take(int64_t id, std::vector<Tensor> grads, bool zero_grad) {
    const auto plan = plan_of(id);
    const std::lock_guard<std::mutex> lock(plan->mutex);
    take(*plan, std::move(grads), zero_grad);
}

void optim_plan_release(int64_t id) {
    const auto plan = plan_of(id);
    const std::lock_guard<std::mutex> lock(plan->mutex);
    plan->ready = false;
    plan->taken.clear();
}

Stats optim_plan_stats(int64_t id, bool count_zeros) {
    const auto plan = plan_of(id);
    const std::lock_guard<std::mutex> lock(plan->mutex);
    check_ready(*plan, id);
    const auto count = static_cast<int64_t>(plan->tensors.size());
    const Stats stats = empty_stats(plan->params[0], count);
    if (plan->cuda) {
        cuda_backend().stats(*plan, count_zeros, pointers(stats));
        return stats;
    }
    std::vector<scale::Span> spans;
    spans.reserve(plan->tensors.size());
    for (const optim::ParamTensor& tensor : plan->tensors) spans.push_back({tensor.grad, tensor.numel, tensor.dtype});
    scale::cpu::grad_stats(spans.data(), count, count_zeros, torch_parallel(), pointers(stats));
    return stats;
}

void optim_plan_step(int64_t id, Tensor hyper, std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf,
                     std::optional<Tensor> sum_of_squares, std::optional<double> max_grad_norm,
                     std::optional<double> ema_decay, bool zero_grad, int64_t seed) {
    const auto plan = plan_of(id);
    const std::lock_guard<std::mutex> lock(plan->mutex);
    check_ready(*plan, id);
    check(!zero_grad || plan->ready_to_zero, "zero_grad: got True for plan ", id,
          ", whose gradients were looked at to be read only; pass it to optim_plan_refresh and optim_plan_take, too");
    const OptimNumbers numbers = {grad_scale, found_inf, sum_of_squares, max_grad_norm, ema_decay, zero_grad};
    check_numbers(numbers, plan->lists());
    check_hyper(hyper, plan->info(), plan->params[0]);
    if (!plan->hyper.has_value() || plan->hyper->const_data_ptr() != hyper.const_data_ptr() ||
        plan->groups != hyper.size(0)) {
        set_hyper(plan->tensors, hyper, plan->rows);
        plan->hyper = hyper;  // held, so that no other tensor can come to lie at its address
        plan->groups = hyper.size(0);
    }

    const optim::Step step = make_step(plan->tensors, plan->rule, plan->rounding, seed, numbers);
    if (plan->cuda) {
        cuda_backend().step(*plan, step);
    } else {
        optim::cpu::step(step, torch_parallel());
    }
    plan->ready = false;
    plan->taken.clear();
}

}  // namespace

void set_cuda_backend(const PlanBackend& backend) { cuda_backend() = backend; }

STABLE_TORCH_LIBRARY_IMPL(halfops, CompositeExplicitAutograd, m) {
    m.impl("optim_plan", TORCH_BOX(&optim_plan));
    m.impl("optim_plan_free", TORCH_BOX(&optim_plan_free));
    m.impl("optim_plans", TORCH_BOX(&optim_plans));
    m.impl("optim_plans_apart", TORCH_BOX(&optim_plans_apart));
    m.impl("optim_plan_refresh", TORCH_BOX(&optim_plan_refresh));
    m.impl("optim_plan_take", TORCH_BOX(&optim_plan_take));
    m.impl("optim_plan_release", TORCH_BOX(&optim_plan_release));
    m.impl("optim_plan_stats", TORCH_BOX(&optim_plan_stats));
    m.impl("optim_plan_step", TORCH_BOX(&optim_plan_step));
    m.impl("optim_grad_access", TORCH_BOX(&grad_access));
    m.impl("set_optim_grad_access", TORCH_BOX(&set_grad_access));
}

}  // namespace halfops::binding
