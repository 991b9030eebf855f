// What the bindings do for launchers: status codes become errors, tables and workspaces get memory of their own.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "collective/upload.h"

namespace emulator {

inline void check(halfops::CudaStatus status) {
    if (status.code != 0) throw std::runtime_error(status.text);
}

// Device memory of exactly that many bytes, 16-byte aligned as torch's is, and full of ones: a double that is read
// before it was written is a NaN. On its own, so that AddressSanitizer sees its ends.
class DeviceMemory {
  public:
    explicit DeviceMemory(int64_t bytes)
        : memory_(std::aligned_alloc(16, static_cast<size_t>((bytes + 31) / 16 * 16))) {
        std::memset(memory_.get(), 0xff, static_cast<size_t>((bytes + 31) / 16 * 16));
    }
    explicit DeviceMemory(const std::vector<int64_t>& words)
        : DeviceMemory(static_cast<int64_t>(words.size() * sizeof(int64_t))) {
        check(halfops::upload(static_cast<int64_t*>(memory_.get()), words.data(), static_cast<int64_t>(words.size()),
                              nullptr));
    }
    void* get() const { return memory_.get(); }
    const int64_t* words() const { return static_cast<const int64_t*>(memory_.get()); }

  private:
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    std::unique_ptr<void, Free> memory_;
};

}  // namespace emulator
