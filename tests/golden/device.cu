// The emulator's way of calling an entry, on a GPU: arrays go there, the entry runs, arrays come back.
#include <cuda_runtime.h>

#include <exception>
#include <memory>
#include <string>

#include "driver/entry.h"

namespace {

void check(cudaError_t status) {
    if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

struct Free {
    void operator()(void* memory) const { cudaFree(memory); }
};

void run(const char* entry, const emulator::Array* arrays, int64_t count) {
    std::vector<emulator::Array> there(arrays, arrays + count);
    std::vector<std::unique_ptr<void, Free>> memory;
    for (emulator::Array& array : there) {
        void* place = nullptr;
        check(cudaMalloc(&place, static_cast<size_t>(array.bytes)));
        memory.emplace_back(place);
        check(cudaMemcpy(place, array.data, static_cast<size_t>(array.bytes), cudaMemcpyHostToDevice));
        array.data = place;
    }
    emulator::call_entry(entry, emulator::Arguments(there.data(), count));
    check(cudaDeviceSynchronize());
    for (int64_t i = 0; i < count; ++i) {
        check(cudaMemcpy(arrays[i].data, there[i].data, static_cast<size_t>(arrays[i].bytes), cudaMemcpyDeviceToHost));
    }
}

}  // namespace

// nullptr, or what was thrown; the text lives until the next call.
extern "C" __attribute__((visibility("default"))) const char* halfops_golden_call(const char* entry,
                                                                                  const emulator::Array* arrays,
                                                                                  int64_t count) {
    static std::string message;
    try {
        run(entry, arrays, count);
        return nullptr;
    } catch (const std::exception& error) {
        message = error.what();
        return message.c_str();
    }
}
