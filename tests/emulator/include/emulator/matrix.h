// Matrices in the registers of a warp. csrc/ptx/ldmatrix.cuh and mma.cuh call these; kernels call those.
#pragma once

#include <cstdint>

#include "emulator/location.h"

namespace emulator {

// ldmatrix of 2 or 4 matrices: `row` is the lane's address, `registers` gets one register a matrix.
void load_matrices(uint32_t* registers, int matrices, bool transposed, const void* row, Location where);

// stmatrix of 4 matrices: `row` is the lane's address.
void store_matrices(void* row, const uint32_t* registers, Location where);

enum class Half { f16, bf16 };
// How the sum over 16 is taken: by one instruction, or by two that each take 8 and round.
enum class Steps { one_of_16, two_of_8 };

// mma.m16n8k16, or two mma.m16n8k8: d += a b.
void multiply_add(Half format, Steps steps, float* d, const uint32_t* a, const uint32_t* b, Location where);

}  // namespace emulator
