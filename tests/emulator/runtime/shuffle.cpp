// __shfl_sync and its three relatives.
#include "emulator/warp.h"
#include "runtime/error.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

struct Operand {
    Shuffle kind;
    uint64_t value;
    int lane;   // an index, a distance or a mask, as the kind says
    int width;  // lanes 0 to width - 1 are one group, the next ones another, ...
    uint64_t result;
};

const char* name_of(Shuffle kind) {
    switch (kind) {
        case Shuffle::from:
            return "__shfl_sync";
        case Shuffle::up:
            return "__shfl_up_sync";
        case Shuffle::down:
            return "__shfl_down_sync";
        case Shuffle::exclusive_or:
            return "__shfl_xor_sync";
    }
    return "shuffle";
}

// The lane whose value `lane` gets: its own where the wanted one lies outside its group.
unsigned source_of(const Operand& operand, int lane) {
    const int first = lane & ~(operand.width - 1);
    const int in_group = lane - first;
    int source = lane;
    switch (operand.kind) {
        case Shuffle::from:
            source = first + (operand.lane & (operand.width - 1));
            break;
        case Shuffle::up:
            if (in_group >= operand.lane) source = lane - operand.lane;
            break;
        case Shuffle::down:
            if (in_group + operand.lane < operand.width) source = lane + operand.lane;
            break;
        case Shuffle::exclusive_or:
            // A lane of an earlier group may be read, one of a later group may not.
            if ((lane ^ operand.lane) < first + operand.width) source = lane ^ operand.lane;
            break;
    }
    return static_cast<unsigned>(source);
}

void execute(const Meeting& meeting) {
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!meeting.includes(lane)) continue;
        Operand& operand = meeting.of<Operand>(lane);
        const unsigned source = source_of(operand, static_cast<int>(lane));
        if (source > 31 || !meeting.includes(source)) {
            fail(format("%s reads lane %u, which is not in the mask 0x%08x", meeting.operation, source, meeting.mask),
                 meeting.where, lane_of_current_warp(lane));
        }
        operand.result = meeting.of<Operand>(source).value;
    }
}

}  // namespace

uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int lane, int width, Location where) {
    const EnterRuntime entered;
    if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
        fail(format("%s: the width must be a power of two up to 32, not %d", name_of(kind), width), where);
    }
    Operand operand{kind, value, lane, width, 0};
    meet(name_of(kind), mask, &operand, execute, Ordering::none, where);
    return operand.result;
}

}  // namespace emulator
