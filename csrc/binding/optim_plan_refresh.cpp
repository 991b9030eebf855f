// The walk over a plan's handles before each step. Nothing throws where a user's tensor is merely unusual: what the
// walk does not understand is Python's to look at.
#include <algorithm>
#include <atomic>
#include <numeric>

#include "binding/optim_plan.h"

namespace halfops::binding {
namespace {

int64_t bytes_of(const optim::ParamTensor& tensor) { return tensor.numel * halfops::bytes_of(tensor.dtype); }

Extent extent_of(const void* data, int64_t bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    return {begin, begin + static_cast<uintptr_t>(bytes)};
}

int32_t dtype_code(DType dtype) {
    switch (dtype) {
        case DType::f16:
            return aoti_torch_dtype_float16();
        case DType::bf16:
            return aoti_torch_dtype_bfloat16();
        default:
            return aoti_torch_dtype_float32();
    }
}

bool lies_at(const Tensor& tensor, const void* data) {
    void* now = nullptr;
    return torch_get_mutable_data_ptr(tensor.get(), &now) == 0 && now == data;
}

// Asked before strides, for whose absence torch would write a line to stderr.
bool is_strided(AtenTensorHandle tensor) {
    int32_t layout = 0;
    return aoti_torch_get_layout(tensor, &layout) == 0 && layout == aoti_torch_layout_strided();
}

bool has_dtype(AtenTensorHandle tensor, DType dtype) {
    int32_t code = 0;
    return aoti_torch_get_dtype(tensor, &code) == 0 && code == dtype_code(dtype);
}

// `shape` is what remember_memory wrote for the parameter: dim, sizes, strides. With `exactly`, strides of dimensions
// that have one element count, too.
bool has_shape(AtenTensorHandle tensor, const int64_t* shape, int64_t numel, bool exactly) {
    int64_t dim = 0, *sizes = nullptr, *strides = nullptr;
    if (aoti_torch_get_dim(tensor, &dim) != 0 || dim != shape[0]) return false;
    if (aoti_torch_get_sizes(tensor, &sizes) != 0 || aoti_torch_get_strides(tensor, &strides) != 0) return false;
    for (int64_t d = 0; d < dim; ++d) {
        const int64_t size = shape[1 + d];
        if (sizes[d] != size) return false;
        if (strides[d] != shape[1 + dim + d] && (exactly || (size != 1 && numel != 0))) return false;
    }
    return true;
}

bool on_device_of(const Plan& plan, AtenTensorHandle tensor) {
    int32_t type = 0, index = 0;
    return aoti_torch_get_device_type(tensor, &type) == 0 && aoti_torch_get_device_index(tensor, &index) == 0 &&
           type == (plan.cuda ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu()) &&
           index == plan.device_index;
}

// Of one element with an offset: the only dense tensors that torch makes negated views of (imag of a conjugate).
bool may_be_negated(AtenTensorHandle tensor, int64_t numel) {
    int64_t offset = 0;
    return numel == 1 && (aoti_torch_get_storage_offset(tensor, &offset) != 0 || offset != 0);
}

// Whether the flat memory of this gradient is what the parameter's is; then its address.
bool usable(const Plan& plan, AtenTensorHandle grad, const optim::ParamTensor& tensor, const int64_t* shape,
            void** data) {
    if (!is_strided(grad) || !has_dtype(grad, tensor.dtype) || !has_shape(grad, shape, tensor.numel, false)) {
        return false;
    }
    if (torch_get_mutable_data_ptr(grad, data) != 0 || (*data == nullptr && tensor.numel != 0)) return false;
    // One address is never on two devices.
    if (*data != tensor.grad && !on_device_of(plan, grad)) return false;
    return !may_be_negated(grad, tensor.numel) || !is_negated(grad);
}

// Whether parameter t and all of its states are where they were, and what they were.
bool memory_is_as_before(const Plan& plan, size_t t, const int64_t* shape) {
    const size_t n = plan.params.size(), state_count = plan.info().states.size();
    const optim::ParamTensor& tensor = plan.tensors[t];
    const Tensor& param = plan.params[t];
    if (!lies_at(param, tensor.weight) || !has_dtype(param.get(), tensor.dtype) ||
        !has_shape(param.get(), shape, tensor.numel, true)) {
        return false;
    }
    if (tensor.master != nullptr && !lies_at(plan.masters[t], tensor.master)) return false;
    for (size_t k = 0; k < state_count; ++k) {
        if (!lies_at(plan.states[k * n + t], tensor.states[k])) return false;
    }
    return tensor.ema == nullptr || lies_at(plan.emas[t], tensor.ema);
}

enum class Overlap { none, among_gradients, with_written };

// Both lists are walked in the order of addresses; gradients usually keep theirs, so sorting them is rare.
Overlap overlap_of_gradients(Plan& plan) {
    const auto& tensors = plan.tensors;
    const auto by_address = [&](uint32_t a, uint32_t b) { return tensors[a].grad < tensors[b].grad; };
    if (!std::is_sorted(plan.grad_order.begin(), plan.grad_order.end(), by_address)) {
        std::sort(plan.grad_order.begin(), plan.grad_order.end(), by_address);
    }
    Overlap found = Overlap::none;
    size_t w = 0;
    uintptr_t last_end = 0;
    for (const uint32_t t : plan.grad_order) {
        const Extent grad = extent_of_gradient(tensors[t]);
        if (grad.begin == grad.end) continue;
        while (w < plan.written.size() && plan.written[w].end <= grad.begin) ++w;
        if (w < plan.written.size() && plan.written[w].begin < grad.end) return Overlap::with_written;
        if (grad.begin < last_end) found = Overlap::among_gradients;
        last_end = std::max(last_end, grad.end);
    }
    return found;
}

void gradients_moved(Plan& plan) {
    plan.grads_changed = true;
    plan.overlap_known = false;
}

// Whether a step may write while it reads these gradients, and may zero them if it shall.
bool apart(Plan& plan, bool zero_grad) {
    if (!plan.overlap_known) {
        const Overlap overlap = overlap_of_gradients(plan);
        if (overlap == Overlap::with_written) return false;
        plan.grads_share = overlap == Overlap::among_gradients;
        plan.overlap_known = true;
    }
    return !(zero_grad && plan.grads_share);
}

}  // namespace

Extent extent_of_gradient(const optim::ParamTensor& tensor) { return extent_of(tensor.grad, bytes_of(tensor)); }

void remember_memory(Plan& plan) {
    const size_t n = plan.params.size(), state_count = plan.info().states.size();
    for (const Tensor& param : plan.params) {
        const auto sizes = param.sizes(), strides = param.strides();
        plan.shape_at.push_back(plan.shapes.size());
        plan.shapes.push_back(static_cast<int64_t>(sizes.size()));
        plan.shapes.insert(plan.shapes.end(), sizes.begin(), sizes.end());
        plan.shapes.insert(plan.shapes.end(), strides.begin(), strides.end());
    }
    for (size_t t = 0; t < n && can_read_grads(); ++t) {
        plan.impls.push_back(impl_of(plan.params[t].get()));
        plan.impls.push_back(impl_of(plan.masters[t].get()));
        for (size_t k = 0; k < state_count; ++k) plan.impls.push_back(impl_of(plan.states[k * n + t].get()));
        if (!plan.emas.empty()) plan.impls.push_back(impl_of(plan.emas[t].get()));
    }
    const auto add = [&](const void* data, int64_t bytes) {
        if (data != nullptr && bytes > 0) plan.written.push_back(extent_of(data, bytes));
    };
    plan.written.reserve(n * (3 + state_count) + 1);
    add(plan.tensors[0].step, static_cast<int64_t>(n * sizeof(float)));
    for (const optim::ParamTensor& tensor : plan.tensors) {
        add(tensor.weight, bytes_of(tensor));
        add(tensor.master, tensor.numel * (tensor.master_format == optim::MasterFormat::split ? 2 : 4));
        for (size_t k = 0; k < state_count; ++k) add(tensor.states[k], tensor.numel * 4);
        add(tensor.ema, tensor.numel * 4);
    }
    std::sort(plan.written.begin(), plan.written.end(), [](Extent a, Extent b) { return a.begin < b.begin; });
    plan.grad_order.resize(n);
    std::iota(plan.grad_order.begin(), plan.grad_order.end(), 0u);
}

// What a walk over some parameters found; threads put theirs together.
struct Found {
    std::atomic<bool> memory_changed{false}, gradients_fit{true}, gradients_moved{false};
};

// The walk is one through memory: some thirty cache lines a parameter, each behind a pointer in the one before. So it
// goes in blocks, and asks for the lines of the blocks to come while it looks at this one.
void walk(Plan& plan, size_t first, size_t last, bool reads, Found& found) {
    constexpr size_t kBlock = 4;  // three blocks of tensors and their gradients fit into 32 KiB
    const size_t each = plan.impls.size() / plan.params.size();
    const auto expect = [&](size_t begin, auto ask) {
        const size_t end = std::min(begin + kBlock, last);
        for (size_t i = begin * each; i < end * each; ++i) ask(plan.impls[i]);
    };
    AtenTensorHandle grads[kBlock] = {};
    expect(first, expect_tensor);
    expect(first + kBlock, expect_tensor);
    expect(first, expect_pointees);
    for (size_t begin = first; begin < last; begin += kBlock) {
        const size_t end = std::min(begin + kBlock, last);
        expect(begin + 2 * kBlock, expect_tensor);
        expect(begin + kBlock, expect_pointees);
        for (size_t t = begin; reads && t < end; ++t) {
            grads[t - begin] = grad_of(plan.params[t]);
            if (grads[t - begin] != nullptr) expect_tensor(impl_of(grads[t - begin]));
        }
        for (size_t t = begin; reads && t < end; ++t) {
            if (grads[t - begin] != nullptr) expect_pointees(impl_of(grads[t - begin]));
        }
        for (size_t t = begin; t < end; ++t) {
            const int64_t* shape = plan.shapes.data() + plan.shape_at[t];
            optim::ParamTensor& tensor = plan.tensors[t];
            if (!memory_is_as_before(plan, t, shape)) {
                found.memory_changed.store(true, std::memory_order_relaxed);
                return;
            }
            if (!reads) continue;
            void* data = nullptr;
            const AtenTensorHandle grad = grads[t - begin];
            reads = grad != nullptr && usable(plan, grad, tensor, shape, &data);
            if (!reads) {
                found.gradients_fit.store(false, std::memory_order_relaxed);
            } else if (tensor.grad != data) {
                tensor.grad = data;
                found.gradients_moved.store(true, std::memory_order_relaxed);
            }
        }
    }
}

Readiness refresh(Plan& plan, bool zero_grad) {
    // Four threads at most: the walk ends with the last of them, and a busy host may keep one waiting.
    const auto count = static_cast<int64_t>(plan.params.size());
    const int64_t grain = std::max<int64_t>(1024, (count + 3) / 4);
    const bool reads = plan.reads_gradients && grad_access();
    Found found;
    plan.ready = false;
    if (!lies_at(plan.steps, plan.tensors[0].step)) return Readiness::memory;
    torch_parallel()(count, grain, [&](int64_t begin, int64_t end) {
        walk(plan, static_cast<size_t>(begin), static_cast<size_t>(end), reads, found);
    });
    if (found.gradients_moved) gradients_moved(plan);
    if (found.memory_changed) return Readiness::memory;
    if (!reads || !found.gradients_fit || !apart(plan, zero_grad)) return Readiness::gradients;
    plan.ready = true;
    plan.ready_to_zero = zero_grad;
    return Readiness::fine;
}

void take(Plan& plan, std::vector<Tensor> grads, bool zero_grad) {
    const size_t n = plan.params.size();
    plan.ready = false;
    check(grads.size() == n, "grads: got ", grads.size(), " tensors, wanted ", n, ", one a parameter");
    for (size_t t = 0; t < n; ++t) {
        check_gradient(grads[t], plan.params[t], static_cast<int64_t>(t), plan.params[0], Order::as_parameter);
    }
    bool reads = grad_access();
    for (size_t t = 0; t < n; ++t) {
        void* given = grads[t].mutable_data_ptr();
        if (plan.tensors[t].grad != given) gradients_moved(plan);
        plan.tensors[t].grad = given;
        if (reads) {  // what does not suit would come through Python every time, so it need not be what was given
            const AtenTensorHandle own = grad_of(plan.params[t]);
            const int64_t* shape = plan.shapes.data() + plan.shape_at[t];
            void* data = nullptr;
            reads =
                own != nullptr && (!usable(plan, own, plan.tensors[t], shape, &data) || data == plan.tensors[t].grad);
        }
    }
    plan.taken = std::move(grads);
    if (!apart(plan, zero_grad)) {
        plan.taken.clear();
        check_disjoint(plan.tensors, plan.info().states.size(), zero_grad);
        fail("grads: share memory with what the step writes; pass tensors of their own");
    }
    plan.reads_gradients = reads;
    plan.ready = true;
    plan.ready_to_zero = zero_grad;
}

}  // namespace halfops::binding
