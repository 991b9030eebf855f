// Barriers in shared memory that count arrivals and bytes. csrc/ptx/mbarrier.cuh calls these; kernels call that.
#pragma once

#include <cstdint>

#include "emulator/location.h"

namespace emulator {

void mbarrier_init(uint64_t* barrier, int count, Location where);
void fence_mbarrier_init(Location where);

// An arrival that first expects `bytes` more.
void mbarrier_arrive(uint64_t* barrier, int bytes, Location where);
// At the barrier that lies at the same place in block `rank` of the cluster.
void mbarrier_arrive_at(uint64_t* barrier, unsigned rank, Location where);

// Until the phase of this parity is over.
void mbarrier_wait(uint64_t* barrier, unsigned parity, Location where);

}  // namespace emulator
