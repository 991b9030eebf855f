// One block while it runs: its threads, barriers, warps and shared memory.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "emulator/location.h"
#include "emulator/vector_types.h"
#include "runtime/async_copy.h"
#include "runtime/barrier.h"
#include "runtime/fiber.h"
#include "runtime/ready_set.h"
#include "runtime/shared.h"
#include "runtime/warp.h"

namespace emulator {

enum class State { ready, waiting, exited };

struct Thread {
    Thread(unsigned index, uint3 position) : index(index), position(position), fiber(index) {}

    unsigned warp() const { return index / 32; }
    unsigned lane() const { return index % 32; }

    unsigned index;  // in the block, threadIdx.x running fastest
    uint3 position;  // threadIdx
    Fiber fiber;
    State state = State::ready;
    bool in_runtime = false;
    // Where it waits, and what a barrier gave it.
    const char* operation = "";
    Location where;
    int barrier_result = 0;
    CopiesOfThread copies;
};

struct Block {
    Block(dim3 grid, dim3 shape, uint3 position, size_t shared_bytes);

    unsigned lanes_of_warp(unsigned warp) const;

    dim3 grid;
    dim3 shape;
    uint3 position;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::array<Barrier, 16> barriers;
    SharedArena shared;
    ReadySet ready;
    unsigned exited = 0;
    unsigned pauses = 0;
    CopiesDue copies_due;
    // Everything before the block is ordered before its threads, and those before everything after it.
    race::Sync begin;
    race::Sync end;
};

}  // namespace emulator
