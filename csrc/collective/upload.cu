#include "collective/upload.h"

#include <cstring>

#include "collective/launch.cuh"

namespace halfops {
namespace {

// A kernel takes at most 4 KB of arguments everywhere, and 32,764 bytes from CUDA 12.1 on.
constexpr int64_t kFew = 500;
#if defined(CUDART_VERSION) && CUDART_VERSION < 12010
constexpr int64_t kMany = kFew;
#else
constexpr int64_t kMany = 4000;
#endif

template <int64_t kWords>
struct Words {
    int64_t word[kWords];
};

constexpr unsigned kThreads = 256;

template <int64_t kWords>
__global__ void store_words(int64_t* target, const __grid_constant__ Words<kWords> words, int64_t count) {
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) target[i] = words.word[i];
}

template <int64_t kWords>
cudaError_t send(int64_t* target, const int64_t* words, int64_t count, cudaStream_t stream) {
    Words<kWords> carried;
    std::memcpy(carried.word, words, static_cast<size_t>(count) * sizeof(int64_t));
    return launch<store_words<kWords>>(Grid{1, kThreads}, stream, target, carried, count);
}

}  // namespace

CudaStatus upload(int64_t* target, const int64_t* words, int64_t count, void* stream) {
    const auto queue = static_cast<cudaStream_t>(stream);
    cudaError_t status = cudaSuccess;
    for (int64_t at = 0; at < count && status == cudaSuccess; at += kMany) {
        const int64_t now = smaller(kMany, count - at);
        status = now <= kFew ? send<kFew>(target + at, words + at, now, queue)
                             : send<kMany>(target + at, words + at, now, queue);
    }
    return status_of(status);
}

bool is_capturing(void* stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status) == cudaSuccess &&
           status != cudaStreamCaptureStatusNone;
}

}  // namespace halfops
