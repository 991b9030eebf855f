// Votes, matches and integer reductions of a warp.
#include <algorithm>

#include "emulator/warp.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

struct Vote {
    bool predicate;
    uint32_t result;
};

struct Match {
    uint64_t value;
    uint32_t result;
};

struct Reduce {
    WarpReduction kind;
    int64_t value;
    int64_t result;
};

void execute_vote(const Meeting& meeting) {
    uint32_t result = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (meeting.includes(lane) && meeting.of<Vote>(lane).predicate) result |= 1u << lane;
    }
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (meeting.includes(lane)) meeting.of<Vote>(lane).result = result;
    }
}

void execute_match(const Meeting& meeting) {
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!meeting.includes(lane)) continue;
        Match& own = meeting.of<Match>(lane);
        for (unsigned other = 0; other < 32; ++other) {
            if (meeting.includes(other) && meeting.of<Match>(other).value == own.value) own.result |= 1u << other;
        }
    }
}

int64_t combine(WarpReduction kind, int64_t a, int64_t b) {
    switch (kind) {
        case WarpReduction::add:
            return a + b;
        case WarpReduction::minimum:
            return std::min(a, b);
        case WarpReduction::maximum:
            return std::max(a, b);
        case WarpReduction::bitwise_and:
            return a & b;
        case WarpReduction::bitwise_or:
            return a | b;
        case WarpReduction::bitwise_xor:
            return a ^ b;
    }
    return a;
}

void execute_reduce(const Meeting& meeting) {
    bool first = true;
    int64_t result = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!meeting.includes(lane)) continue;
        const Reduce& operand = meeting.of<Reduce>(lane);
        result = first ? operand.value : combine(operand.kind, result, operand.value);
        first = false;
    }
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (meeting.includes(lane)) meeting.of<Reduce>(lane).result = result;
    }
}

const char* name_of(WarpReduction kind) {
    switch (kind) {
        case WarpReduction::add:
            return "__reduce_add_sync";
        case WarpReduction::minimum:
            return "__reduce_min_sync";
        case WarpReduction::maximum:
            return "__reduce_max_sync";
        case WarpReduction::bitwise_and:
            return "__reduce_and_sync";
        case WarpReduction::bitwise_or:
            return "__reduce_or_sync";
        case WarpReduction::bitwise_xor:
            return "__reduce_xor_sync";
    }
    return "warp reduction";
}

}  // namespace

uint32_t ballot(const char* operation, uint32_t mask, bool predicate, Location where) {
    const EnterRuntime entered;
    Vote operand{predicate, 0};
    meet(operation, mask, &operand, execute_vote, Ordering::none, where);
    return operand.result;
}

uint32_t match_any(uint32_t mask, uint64_t value, Location where) {
    const EnterRuntime entered;
    Match operand{value, 0};
    meet("__match_any_sync", mask, &operand, execute_match, Ordering::none, where);
    return operand.result;
}

int64_t warp_reduce(WarpReduction kind, uint32_t mask, int64_t value, Location where) {
    const EnterRuntime entered;
    Reduce operand{kind, value, 0};
    meet(name_of(kind), mask, &operand, execute_reduce, Ordering::none, where);
    return operand.result;
}

}  // namespace emulator
