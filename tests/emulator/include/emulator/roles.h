// Warps of one block with different work. csrc/ptx/roles.cuh calls these, and the named barriers; kernels call that.
#pragma once

#include "emulator/barriers.h"
#include "emulator/location.h"

namespace emulator {

// setmaxnreg, by all threads of a warpgroup.
void set_registers(int registers, Location where);

}  // namespace emulator
