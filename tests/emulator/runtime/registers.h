// setmaxnreg: which warps have said how many registers they want.
#pragma once

#include <vector>

#include "emulator/location.h"

namespace emulator {

struct Thread;

inline constexpr unsigned kWarpsOfGroup = 4;

// One after the other: the four warps of a warpgroup have to say the same.
struct RegistersOfWarp {
    struct Call {
        int registers;
        Location where;
    };
    std::vector<Call> calls;
};

// A warp that returns without having said what the others of its warpgroup have.
void refuse_exit_without_registers(const Thread& thread);

}  // namespace emulator
