// The copy engine: boxes of tensors on their way to shared memory, and out of it.
#pragma once

#include <list>
#include <memory>
#include <vector>

#include "emulator/location.h"
#include "runtime/event.h"
#include "runtime/mbarrier.h"
#include "runtime/proxy.h"
#include "runtime/tensor_map.h"

namespace emulator {

struct Block;
struct Cluster;
struct Thread;

// A box on its way into the shared memory of one block; of a multicast there is one for each.
struct TileLoad : Event {
    TileLoad(const Box& box, Block& block, char* target, MBarrier& barrier, const Thread& issuer, Location where)
        : box(box), block(block), target(target), barrier(barrier), issuer(issuer), where(where) {}
    void act() override;
    // It has come, and somebody in the block knows.
    bool is_over() const { return happened() && counted < barrier.waited; }

    Box box;
    Block& block;
    char* target;
    MBarrier& barrier;
    const Thread& issuer;
    Location where;
    uint64_t counted = 0;             // the phase of the barrier in which it came
    race::Context context = nullptr;  // until then
    race::Sync start;
};

// A box on its way out: first it is read, then written. Until the former nobody may write its source, until the latter
// nobody sees it.
struct TileStore {
    struct Read : Event {
        explicit Read(TileStore& store) : store(store) {}
        void act() override;
        TileStore& store;
    };
    struct Write : Event {
        explicit Write(TileStore& store) : store(store) {}
        void act() override;
        TileStore& store;
    };

    TileStore(const Box& box, char* source, bool adds, Location where)
        : box(box), source(source), adds(adds), where(where), read(*this), write(*this) {}

    Box box;
    char* source;
    bool adds;
    Location where;
    std::vector<char> data;
    Read read;
    Write write;
    bool waited = false;  // for the read
    race::Sync start;
    race::Sync started;
    race::Sync was_read;
    race::Sync was_written;
};

using StoreGroup = std::vector<std::shared_ptr<TileStore>>;

// Those that the thread has started and not waited for, oldest first.
struct StoresOfThread {
    std::list<StoreGroup> groups;
    StoreGroup in_no_group;
};

// Completion::lazy: nobody can go on, so one of the loads that somebody waits for happens now. False if there is none.
bool hurry_load(Cluster& cluster);

// The copy engine would write into, or read from, shared memory that belongs to somebody else by then.
void refuse_exit_during_store(const Thread& thread);
void refuse_exit_during_load(const Block& block);

// Stores of which nobody has waited for the end outlive their threads: until the end of the launch.
void keep_stores(Thread& thread);
void finish_stores();
void forget_stores();

}  // namespace emulator
