#include "binding/cuda_runtime.h"

#include <dlfcn.h>

namespace halfops::binding {
namespace {

using GetStream = int32_t (*)(int32_t device_index, void** stream);

GetStream find_get_stream() {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* symbol = library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream");
    check(symbol != nullptr,
          "halfops: a CUDA tensor arrived, but this torch has no CUDA runtime (libtorch_cuda.so with "
          "aoti_torch_get_current_cuda_stream); install a CUDA build of torch and run `python -m halfops doctor`");
    return reinterpret_cast<GetStream>(symbol);
}

}  // namespace

void* current_cuda_stream(const Tensor& tensor) {
    static const GetStream get_stream = find_get_stream();
    void* stream = nullptr;
    check(get_stream(tensor.get_device_index(), &stream) == 0, "halfops: torch did not give its current CUDA stream");
    return stream;
}

void check_cuda(int status, const char* message, const char* op) {
    check(status == 0, op, ": CUDA error ", status, " (", message == nullptr ? "unknown" : message,
          "); run `python -m halfops doctor`");
}

}  // namespace halfops::binding
