#include "runtime/warp.h"

#include <algorithm>
#include <cstring>

#include "emulator/warp.h"
#include "runtime/error.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

// The mask without lanes that the block's last warp does not have; only "all lanes" may name those.
uint32_t existing_lanes(uint32_t mask, Location where) {
    const unsigned lanes = current_block().lanes_of_warp(current_thread().warp());
    if (lanes == 32) return mask;
    const uint32_t existing = (1u << lanes) - 1;
    if (mask != kAllLanes && (mask & ~existing) != 0) {
        fail(format("the mask 0x%08x names lanes that do not exist: the warp has %u", mask, lanes), where);
    }
    return mask & existing;
}

// The meeting that the lane has to join, or nullptr if it is the first.
Meeting* find_meeting(const Warp& warp, const char* operation, uint32_t mask, Location where) {
    for (const std::unique_ptr<Meeting>& meeting : warp.meetings) {
        if ((meeting->mask & mask) == 0) continue;
        if (meeting->mask != mask) {
            fail(format("the mask 0x%08x overlaps the mask 0x%08x of lanes that wait in ", mask, meeting->mask) +
                     meeting->operation + " at " + text_of(meeting->where),
                 where);
        }
        if (std::strcmp(meeting->operation, operation) != 0 || !same_place(meeting->where, where)) {
            fail(std::string(operation) + " in divergent code: other lanes of the mask are in " + meeting->operation +
                     " at " + text_of(meeting->where),
                 where);
        }
        return meeting.get();
    }
    return nullptr;
}

Meeting& open_meeting(Warp& warp, const char* operation, uint32_t mask, Location where) {
    for (unsigned lane = 0; lane < 32; ++lane) {
        if ((mask >> lane & 1) != 0 && lane_of_current_warp(lane).state == State::exited) {
            fail(format("%s: the mask 0x%08x names lane %u, which has exited", operation, mask, lane), where);
        }
    }
    warp.meetings.push_back(std::make_unique<Meeting>(Meeting{operation, mask, where}));
    return *warp.meetings.back();
}

void close_meeting(Warp& warp, Meeting& meeting, Ordering ordering) {
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!meeting.includes(lane)) continue;
        Thread& thread = lane_of_current_warp(lane);
        if (ordering == Ordering::memory) acquire_as(thread, meeting.sync);
        if (&thread != &current_thread()) make_ready(thread);
    }
    std::erase_if(warp.meetings, [&](const std::unique_ptr<Meeting>& other) { return other.get() == &meeting; });
}

}  // namespace

Thread& lane_of_current_warp(unsigned lane) { return current_block().threads[current_thread().warp() * 32 + lane]; }

void meet(const char* operation, uint32_t mask, void* operand, Execute execute, Ordering ordering, Location where) {
    Thread& thread = current_thread();
    Warp& warp = current_block().warps[thread.warp()];
    if ((mask >> thread.lane() & 1) == 0) {
        fail(format("%s: lane %u is not in the mask 0x%08x that it passes", operation, thread.lane(), mask), where);
    }
    mask = existing_lanes(mask, where);
    Meeting* meeting = find_meeting(warp, operation, mask, where);
    if (meeting == nullptr) meeting = &open_meeting(warp, operation, mask, where);
    meeting->arrived |= 1u << thread.lane();
    meeting->operand[thread.lane()] = operand;
    if (ordering == Ordering::memory) release_as(thread, meeting->sync);
    if (meeting->arrived != mask) {
        wait_for_others(operation, where);
        return;
    }
    execute(*meeting);
    close_meeting(warp, *meeting, ordering);
    give_way();
}

void meet_whole_warp(const char* operation, void* operand, Execute execute, Location where) {
    const unsigned lanes = current_block().lanes_of_warp(current_thread().warp());
    if (lanes != 32) fail(format("%s needs a whole warp, this one has %u lanes", operation, lanes), where);
    meet(operation, kAllLanes, operand, execute, Ordering::none, where);
}

void warp_barrier(uint32_t mask, Location where) {
    const EnterRuntime entered;
    meet("__syncwarp", mask, nullptr, [](const Meeting&) {}, Ordering::memory, where);
}

void refuse_exit_during_collective(const Thread& thread) {
    for (const std::unique_ptr<Meeting>& meeting : current_block().warps[thread.warp()].meetings) {
        if (!meeting->includes(thread.lane())) continue;
        fail(std::string("the thread exits while other lanes of its warp wait for it in ") + meeting->operation,
             meeting->where, thread);
    }
}

}  // namespace emulator
