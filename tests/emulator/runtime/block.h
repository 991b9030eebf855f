// One block while it runs: its threads, barriers, warps and shared memory.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulator/location.h"
#include "emulator/vector_types.h"
#include "runtime/async_copy.h"
#include "runtime/barrier.h"
#include "runtime/fiber.h"
#include "runtime/mbarrier.h"
#include "runtime/proxy.h"
#include "runtime/registers.h"
#include "runtime/shared.h"
#include "runtime/tma.h"
#include "runtime/warp.h"
#include "runtime/wgmma.h"

namespace emulator {

struct Block;
struct Cluster;
struct ClusterPhase;

enum class State { ready, waiting, exited };

struct Thread {
    Thread(Block& block, unsigned index, uint3 position, unsigned place)
        : block(block), index(index), position(position), place(place), fiber(place) {}

    unsigned warp() const { return index / 32; }
    unsigned lane() const { return index % 32; }

    Block& block;
    unsigned index;  // in the block, threadIdx.x running fastest
    uint3 position;  // threadIdx
    unsigned place;  // in the cluster's ReadySet; the warps of each block begin at a multiple of 32
    Fiber fiber;
    State state = State::ready;
    bool in_runtime = false;
    // Where it waits, and what a barrier gave it.
    const char* operation = "";
    Location where;
    int barrier_result = 0;
    MBarrierWait waits_for;
    CopiesOfThread copies;
    StoresOfThread stores;
    // Between its arrival at the cluster's barrier and its wait there.
    std::shared_ptr<ClusterPhase> arrived_at;
    Location arrived_where;
    std::array<Companion, kBeside> beside;
};

struct Block {
    Block(Cluster& cluster, unsigned rank, uint3 position, size_t shared_bytes);

    unsigned lanes_of_warp(unsigned warp) const;
    bool is_over() const { return exited == threads.size(); }

    Cluster& cluster;
    unsigned rank;
    uint3 position;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::array<Barrier, 16> barriers;
    std::map<const void*, MBarrier> mbarriers;
    std::vector<RegistersOfWarp> registers;
    std::vector<ProductsOfWarp> products;
    SharedArena shared;
    unsigned exited = 0;
    unsigned pauses = 0;
};

}  // namespace emulator
