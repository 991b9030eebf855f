// The sixteen barriers of a block; 0 is the one of __syncthreads.
#pragma once

#include <memory>
#include <vector>

#include "emulator/barriers.h"
#include "emulator/location.h"
#include "runtime/proxy.h"

namespace emulator {

struct Thread;

// From the first arrival at a barrier until the last.
struct BarrierPhase {
    struct Arrival {
        Thread* thread;
        Location where;
        int predicate;
        bool waits;
    };

    const char* operation;
    Reduction reduction;
    unsigned threads;  // how many have to come
    bool whole_block;  // __syncthreads and its kin, which all threads have to reach at the same place
    std::vector<Arrival> arrivals;
    SyncPoint sync;
};

struct Barrier {
    std::unique_ptr<BarrierPhase> phase;
};

// A thread that returns while the others wait for the whole block leaves them waiting.
void refuse_exit_during_barrier(const Thread& thread);

}  // namespace emulator
