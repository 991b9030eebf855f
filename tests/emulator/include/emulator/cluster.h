// Blocks that run at the same time. csrc/ptx/cluster.cuh calls these; kernels call that.
#pragma once

#include "emulator/location.h"

namespace emulator {

unsigned cluster_rank(Location where);

// barrier.cluster: all threads of all blocks that have not exited, in turn.
void cluster_arrive(Location where);
void cluster_wait(Location where);

// What lies in block `rank` at the place of `mine` in this one.
float load_from_block(const float* mine, unsigned rank, Location where);

}  // namespace emulator
