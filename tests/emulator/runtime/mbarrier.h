// mbarrier: a phase lasts until so many threads have arrived and so many bytes have come as were expected.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "emulator/location.h"
#include "runtime/proxy.h"

namespace emulator {

struct Block;
struct Thread;

// What there is to a barrier lies beside shared memory. The eight bytes in it hold a pattern, so that the emulator
// notices when something is written over them.
struct MBarrier {
    static constexpr size_t kBytes = 8;

    unsigned count;
    unsigned missing;   // arrivals in this phase
    int64_t bytes = 0;  // expected in this phase and not there; less than 0 if they came before they were expected
    uint64_t phase = 0;
    uint64_t waited = 0;  // phases before this one are known to be over
    std::vector<Thread*> waiting{};
    std::array<SyncPoint, 2> arrivals{};  // of phases with this parity

    // Written when the barrier is made and read by proxies alone: in the barrier's own place the detector would soon
    // have forgotten the former, since many threads read there.
    alignas(8) char shown_to_proxies[kBytes] = {};
    race::Sync allocated;  // the place above, which is nobody's race

    SyncPoint& arrivals_of_phase() { return arrivals[phase % 2]; }
};

// What a thread waits for; text for the table of a deadlock.
struct MBarrierWait {
    const MBarrier* barrier = nullptr;
    unsigned parity = 0;
};
std::string text_of(const MBarrierWait& wait);

// The barrier at this place of a block: an error if there is none, or no longer.
MBarrier& mbarrier_at(const char* instruction, Block& block, const void* place, Location where);

// `bytes` of those that the barrier expects have come. On behalf of `thread`, whose error it is if they are too many.
void bytes_have_come(MBarrier& barrier, int64_t bytes, const Thread& thread, Location where);

}  // namespace emulator
