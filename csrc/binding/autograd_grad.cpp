#include "binding/autograd_grad.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iterator>

namespace halfops::binding {
namespace {

// major << 8 | minor
constexpr uint64_t kTested[] = {0x020b, 0x020c, 0x020d, 0x020e};

// A reference is returned as the address that it stands for.
using Grad = AtenTensorHandle (*)(const void* tensor_impl);

Grad find_grad() {
    const uint64_t version = aoti_torch_abi_version() >> 48;
    if (std::find(std::begin(kTested), std::end(kTested), version) == std::end(kTested)) return nullptr;
    void* library = dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD);
    return library == nullptr ? nullptr : reinterpret_cast<Grad>(dlsym(library, "_ZNK3c1010TensorImpl4gradEv"));
}

Grad grad_function() {
    static const Grad function = find_grad();
    return function;
}

std::atomic<bool>& wanted() {
    static std::atomic<bool> on = [] {
        const char* value = std::getenv("HALFOPS_GRAD_ACCESS");
        return value == nullptr || std::strcmp(value, "off") != 0;
    }();
    return on;
}

}  // namespace

bool can_read_grads() { return grad_function() != nullptr; }

bool grad_access() { return wanted().load(std::memory_order_relaxed) && can_read_grads(); }

void set_grad_access(bool on) { wanted().store(on); }

AtenTensorHandle grad_of(const Tensor& param) {
    const AtenTensorHandle grad = grad_function()(impl_of(param.get()));
    bool defined = false;
    check(aoti_torch_is_defined(grad, &defined) == 0, "halfops: torch did not say whether a gradient is there");
    return defined ? grad : nullptr;
}

bool is_negated(AtenTensorHandle tensor) {
    AtenTensorHandle own = nullptr;  // the call takes it
    check(aoti_torch_new_tensor_handle(tensor, &own) == 0, "halfops: torch did not give a handle of a gradient");
    StableIValue stack[] = {torch::stable::detail::from(own)};
    check(torch_call_dispatcher("aten::is_neg", "", stack, TORCH_ABI_VERSION) == 0,
          "halfops: torch did not say whether a gradient is negated");
    return torch::stable::detail::to<bool>(stack[0]);
}

}  // namespace halfops::binding
