// Warp collectives: the lanes in a mask meet, and when the last has come one function computes what everybody gets.
//
// An instruction is a structure with a lane's operands and results, and a function that works on those of all lanes:
// shuffle.cpp and vote.cpp are examples.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "emulator/location.h"
#include "runtime/banks.h"
#include "runtime/proxy.h"

namespace emulator {

struct Thread;

// A meeting of lanes. They belong together if mask, operation and place in the source are the same.
struct Meeting {
    const char* operation;
    uint32_t mask;
    Location where;
    uint32_t arrived = 0;
    std::array<void*, 32> operand{};
    SyncPoint sync;

    bool includes(unsigned lane) const { return (mask >> lane & 1) != 0; }
    template <class Operand>
    Operand& of(unsigned lane) const {
        return *static_cast<Operand*>(operand[lane]);
    }
};

struct Warp {
    std::vector<std::unique_ptr<Meeting>> meetings;
    CopyPhases copy_phases;
};

// Only __syncwarp also puts the lanes' memory accesses in order; shuffles and votes do not.
enum class Ordering { none, memory };

using Execute = void (*)(const Meeting& meeting);

// A lane of the current thread's warp.
Thread& lane_of_current_warp(unsigned lane);

void meet(const char* operation, uint32_t mask, void* operand, Execute execute, Ordering ordering, Location where);

// For instructions that a whole warp executes.
inline constexpr uint32_t kAllLanes = 0xffffffffu;
void meet_whole_warp(const char* operation, void* operand, Execute execute, Location where);

// A lane that returns while others of its warp wait for it leaves them waiting.
void refuse_exit_during_collective(const Thread& thread);

}  // namespace emulator
