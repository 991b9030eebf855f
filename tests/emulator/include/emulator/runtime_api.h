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
};

enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
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
inline constexpr size_t kMostDynamicShared = 227 * 1024;
inline constexpr unsigned kMostThreads = 1024;

}  // namespace emulator

inline const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorInvalidConfiguration:
            return "invalid configuration argument";
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
            *value = 9;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMinor:
            *value = 0;
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = static_cast<int>(emulator::kMostDynamicShared);
            return cudaSuccess;
    }
    return cudaErrorInvalidValue;
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int value) {
    const bool possible = value >= 0 && static_cast<size_t>(value) <= emulator::kMostDynamicShared;
    return possible ? cudaSuccess : cudaErrorInvalidValue;
}

struct cudaFuncAttributes {};

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
    return cudaSuccess;
}

enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };

inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
    *blocks = emulator::config().blocks_per_multiprocessor;
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
