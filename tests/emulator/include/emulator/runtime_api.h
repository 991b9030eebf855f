// The small part of the CUDA runtime API that launchers use. Device memory is host memory and a stream is always done.
#pragma once

#include <cstddef>
#include <cstring>

#include "emulator/config.h"

struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNotSupported = 801,
    cudaErrorInvalidClusterSize = 912,
};

enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault,
};

namespace emulator {

inline constexpr size_t kMostStaticShared = 48 * 1024;
// What a device keeps of a multiprocessor's shared memory for each block.
inline constexpr size_t kReservedShared = 1024;
inline constexpr unsigned kMostThreads = 1024;
// What every device with clusters can do.
inline constexpr unsigned kMostBlocksOfCluster = 8;

// Dynamic shared memory that a launch of the kernel may ask for: 48 KiB until somebody sets more, for good.
size_t& dynamic_shared_limit(const void* kernel);

template <class... Parameters>
const void* address_of(void (*kernel)(Parameters...)) {
    return reinterpret_cast<const void*>(kernel);
}

}  // namespace emulator

inline const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorInvalidConfiguration:
            return "invalid configuration argument";
        case cudaErrorNotSupported:
            return "operation not supported";
        case cudaErrorInvalidClusterSize:
            return "cluster misconfiguration";
    }
    return "unrecognized error code";
}

// A launch of the emulator gives its status to the caller and leaves nothing behind.
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

// A number beyond those whose facts a launcher remembers: the next launch may be on a device of another size.
inline cudaError_t cudaGetDevice(int* device) {
    *device = 1 << 20;
    return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrMaxSharedMemoryPerBlock:
            *value = static_cast<int>(emulator::kMostStaticShared);
            return cudaSuccess;
        case cudaDevAttrMultiProcessorCount:
            *value = emulator::config().multiprocessors;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMajor:
            *value = emulator::config().capability / 10;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMinor:
            *value = emulator::config().capability % 10;
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = emulator::config().most_shared + static_cast<int>(emulator::kReservedShared);
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = emulator::config().most_shared;
            return cudaSuccess;
    }
    return cudaErrorInvalidValue;
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel kernel, cudaFuncAttribute, int value) {
    if (value < 0 || value > emulator::config().most_shared) return cudaErrorInvalidValue;
    emulator::dynamic_shared_limit(emulator::address_of(kernel)) = static_cast<size_t>(value);
    return cudaSuccess;
}

namespace emulator {
// What cudaFuncGetAttributes says of every kernel: a program may say that it has kernels for fewer.
inline int most_threads_per_block = 1024;
}  // namespace emulator

struct cudaFuncAttributes {
    int ptxVersion;
    int maxThreadsPerBlock;
};

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel) {
    attributes->ptxVersion = emulator::config().compiled_for;
    attributes->maxThreadsPerBlock = emulator::most_threads_per_block;
    return cudaSuccess;
}

enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };

inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel kernel, int, size_t shared_bytes) {
    const emulator::Config& device = emulator::config();
    const size_t all = static_cast<size_t>(device.most_shared) + emulator::kReservedShared;
    const bool allowed = shared_bytes <= emulator::dynamic_shared_limit(emulator::address_of(kernel));
    const int fit = allowed ? static_cast<int>(all / (shared_bytes + emulator::kReservedShared)) : 0;
    *blocks = fit < device.blocks_per_multiprocessor ? fit : device.blocks_per_multiprocessor;
    return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
    if (bytes > 0) std::memset(target, value, bytes);
    return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    if (bytes > 0) std::memcpy(target, source, bytes);
    return cudaSuccess;
}
