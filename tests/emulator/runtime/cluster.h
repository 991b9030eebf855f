// The blocks that run at the same time: one, or as many as the launch asked for.
#pragma once

#include <list>
#include <memory>
#include <vector>

#include "emulator/location.h"
#include "emulator/vector_types.h"
#include "runtime/block.h"
#include "runtime/ready_set.h"
#include "runtime/tma.h"

namespace emulator {

// barrier.cluster, from the first arrival until the last wait.
struct ClusterPhase {
    unsigned arrived = 0;  // threads that still run
    bool complete = false;
    std::vector<Thread*> waiting;
    SyncPoint sync;
};

struct Cluster {
    Cluster(dim3 grid, dim3 shape, unsigned blocks, unsigned index, size_t shared_bytes);

    unsigned places_of_block() const { return (shape.x * shape.y * shape.z + 31) / 32 * 32; }
    unsigned places() const { return static_cast<unsigned>(blocks.size()) * places_of_block(); }
    unsigned threads() const { return static_cast<unsigned>(blocks.size()) * shape.x * shape.y * shape.z; }
    Thread& at(unsigned place) { return blocks[place / places_of_block()]->threads[place % places_of_block()]; }

    dim3 shape;  // of a block
    std::vector<std::unique_ptr<Block>> blocks;
    ReadySet ready;
    unsigned exited = 0;  // threads
    // What arrivals count for, and whether all threads have met before.
    std::shared_ptr<ClusterPhase> phase = std::make_shared<ClusterPhase>();
    bool has_met = false;
    std::list<TileLoad> loads;  // and perhaps some that are over
    // Everything before the cluster is ordered before its threads, and those before everything after it.
    race::Sync begin;
    race::Sync end;
};

// The block whose shared memory an instruction reaches: an error if there is none of this rank, if it is over, or if
// nothing says that it runs already.
Block& reachable_block(const char* instruction, unsigned rank, Location where);

// A thread that has returned is no longer waited for.
void leave_cluster_barrier(const Thread& thread);

}  // namespace emulator
