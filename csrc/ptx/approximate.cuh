// Functions that the GPU has an instruction for, with its error. For code that says why it may use them.
#pragma once

namespace halfops::ptx {

// PTX ISA, "rcp.approx.ftz": relative error 2^-23; 0 for a result below 2^-126.
__device__ __forceinline__ float reciprocal_approximately(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// PTX ISA, "ex2.approx.ftz": relative error 2^-22; 0 for a result below 2^-126.
__device__ __forceinline__ float exp2_approximately(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

}  // namespace halfops::ptx
