#include "binding/device.h"

#include <dlfcn.h>

#include "collective/upload.h"

namespace halfops::binding {
namespace {

using GetStream = int32_t (*)(int32_t device_index, void** stream);

GetStream find_get_stream() {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* symbol = library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream");
    halfops::check(symbol != nullptr,
                   "halfops: a CUDA tensor arrived, but this torch has no CUDA runtime (libtorch_cuda.so with "
                   "aoti_torch_get_current_cuda_stream); install a CUDA build of torch and run `python -m halfops "
                   "doctor`");
    return reinterpret_cast<GetStream>(symbol);
}

// cudaErrorInvalidDeviceFunction, cudaErrorNoKernelImageForDevice
bool is_missing_architecture(int code) { return code == 98 || code == 209; }

}  // namespace

OnDevice::OnDevice(const char* op, int32_t index, CudaStatus (*supported)()) : op_(op), index_(index), guard_(index) {
    check(supported());
}

void* OnDevice::stream() const {
    static const GetStream get_stream = find_get_stream();
    void* stream = nullptr;
    halfops::check(get_stream(index_, &stream) == 0, op_, ": torch did not give its current CUDA stream");
    return stream;
}

bool OnDevice::is_capturing() const { return halfops::is_capturing(stream()); }

Tensor OnDevice::bytes(int64_t count) const {
    const torch::stable::Device device(torch::headeronly::DeviceType::CUDA, index_);
    return torch::stable::empty({count}, ScalarType::Byte, std::nullopt, device);
}

Tensor OnDevice::words(const std::vector<int64_t>& host) const {
    Tensor words = bytes(static_cast<int64_t>(host.size() * sizeof(int64_t)));
    write(words, host.data(), static_cast<int64_t>(host.size()));
    return words;
}

void OnDevice::write(const Tensor& words, const int64_t* host, int64_t count) const {
    check(upload(static_cast<int64_t*>(words.mutable_data_ptr()), host, count, stream()));
}

void OnDevice::check(CudaStatus status) const {
    halfops::check(
        !is_missing_architecture(status.code), op_, ": this build of halfops has no kernels for GPU ", index_,
        "'s architecture; rebuild with TORCH_CUDA_ARCH_LIST naming it (`python -m halfops doctor` says which)");
    halfops::check(status.code == 0, op_, ": CUDA error ", status.code, " (",
                   status.text == nullptr ? "unknown" : status.text, "); run `python -m halfops doctor`");
}

}  // namespace halfops::binding
