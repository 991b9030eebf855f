// A parameter's gradient, read without Python: what the optimizers' plans need ten thousand times a step.
//
// The stable ABI has no accessor for `.grad`, and asking Python for it makes an object of each fresh gradient and hands
// all of them over as a list, which costs more than many a step. So this file, and no other, relies on two facts that
// torch does not promise:
//
//   1. an AtenTensorHandle is an `at::Tensor*`, whose only member is its `c10::TensorImpl*`;
//   2. libc10 exports `const at::Tensor& c10::TensorImpl::grad() const`, undefined where there is no gradient.
//
// They have been looked at for the versions of torch in kTested, and are used for no other; the symbol is looked up by
// name, so that the binary needs nothing of libc10. A plan reads gradients this way only after a step in which Python
// gave it exactly the gradients that it read. Wherever something is missing (another torch, no such symbol, switched
// off, a difference) gradients come through Python and the step is slower, nothing else.
// HALFOPS_GRAD_ACCESS=off switches it off, torch.ops.halfops.set_optim_grad_access at run time.
#pragma once

#include "binding/tensor.h"

namespace halfops::binding {

// Whether gradients can be read here; whether they are also meant to be.
bool can_read_grads();
bool grad_access();
// Off: gradients come through Python. On: as grad_access says for this torch.
void set_grad_access(bool on);

// The parameter's gradient, borrowed until someone changes it; null if there is none. Only where grad_access().
AtenTensorHandle grad_of(const Tensor& param);

// What is behind a handle (fact 1). Only where can_read_grads().
inline const void* impl_of(AtenTensorHandle tensor) { return *reinterpret_cast<const void* const*>(tensor); }

// Asks the processor for the memory of a tensor that will be looked at soon, and, once that is there, for that of its
// storage and autograd's part, whose addresses are the third and fourth word of it. A wrong guess costs time only.
inline void expect_tensor(const void* impl) {
    const auto* bytes = static_cast<const char*>(impl);
    __builtin_prefetch(bytes);
    __builtin_prefetch(bytes + 64);
    __builtin_prefetch(bytes + 160);
}
inline void expect_pointees(const void* impl) {
    const auto* words = static_cast<const void* const*>(impl);
    __builtin_prefetch(static_cast<const char*>(words[2]) + 16);
    __builtin_prefetch(static_cast<const char*>(words[2]) + 56);
    __builtin_prefetch(words[3]);
}

// Whether the elements are stored with their signs turned (a lazy view of an imaginary part): not what memory says.
bool is_negated(AtenTensorHandle tensor);

}  // namespace halfops::binding
