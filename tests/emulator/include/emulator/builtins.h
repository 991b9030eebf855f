// Who am I: CUDA's built-in variables. The scheduler sets them whenever it gives the processor to another thread.
#pragma once

#include "emulator/vector_types.h"

// Not const, although no kernel may write them: a compiler would keep a const across the switch to another thread.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

inline constexpr int warpSize = 32;
