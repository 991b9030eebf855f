// What a CUDA call came to, for those who do not know CUDA's headers: 0, or a cudaError_t with its text.
#pragma once

namespace halfops {

struct CudaStatus {
    int code = 0;
    const char* text = nullptr;
};

}  // namespace halfops
