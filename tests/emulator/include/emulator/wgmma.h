// Products by the tensor cores of a warpgroup. csrc/ptx/wgmma.cuh calls these; kernels call that.
#pragma once

#include <cstdint>

#include "emulator/location.h"
#include "emulator/matrix.h"

namespace emulator {

// In the window of shared memory: a multiple of 1024 where the pointer is one. Descriptors have 18 bits of it.
uint32_t shared_window_address(const void* shared, Location where = Location::current());

void wgmma_fence(Location where);
void wgmma_commit(Location where);
void wgmma_wait(int pending, Location where);

// m64nNk16: d = a b, or d += a b. `a_turned` and `b_turned`: 0, lines along K; 1, along M (or N).
void wgmma(Half format, float* d, int columns, uint64_t a, int a_turned, uint64_t b, int b_turned, bool accumulate,
           Location where);
// a from the registers of the warps.
void wgmma(Half format, float* d, int columns, const uint32_t* a, uint64_t b, int b_turned, bool accumulate,
           Location where);

}  // namespace emulator
