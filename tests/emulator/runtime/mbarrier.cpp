#include "runtime/mbarrier.h"

#include "emulator/mbarrier.h"
#include "runtime/cluster.h"
#include "runtime/error.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

constexpr int64_t kMostCounted = (1 << 20) - 1;  // arrivals, and bytes on their way

uint64_t pattern_at(const void* place) { return 0x6d62617272696572u ^ reinterpret_cast<uintptr_t>(place); }

void check_place(const char* instruction, const Block& block, const void* place, Location where) {
    if (reinterpret_cast<uintptr_t>(place) % MBarrier::kBytes != 0) {
        fail(format("%s at %p, which is not a multiple of 8", instruction, place), where);
    }
    if (!block.shared.contains(place, MBarrier::kBytes)) {
        fail(format("%s at %p, which is not in the block's shared memory", instruction, place), where);
    }
}

void end_phase_if_complete(MBarrier& barrier) {
    if (barrier.missing > 0 || barrier.bytes != 0) return;
    ++barrier.phase;
    barrier.missing = barrier.count;
    std::vector<Thread*> waiting;
    waiting.swap(barrier.waiting);
    for (Thread* thread : waiting) make_ready(*thread);
}

void add_bytes(MBarrier& barrier, int64_t bytes, const Thread& thread, Location where) {
    barrier.bytes += bytes;
    if (barrier.bytes >= -kMostCounted && barrier.bytes <= kMostCounted) return;
    fail(format("the mbarrier counts %lld bytes, more than 2^20 - 1", static_cast<long long>(barrier.bytes)), where,
         thread);
}

void arrive(const char* instruction, Block& block, const void* place, int bytes, const void* caller, Location where) {
    Thread& thread = current_thread();
    if (bytes < 0) fail(format("%s expects %d bytes", instruction, bytes), where);
    MBarrier& barrier = mbarrier_at(instruction, block, place, where);
    read_as(thread.fiber.context(), place, MBarrier::kBytes, caller);
    if (barrier.missing == 0) {
        fail(format("%s, but all %u have arrived in this phase", instruction, barrier.count), where);
    }
    add_bytes(barrier, bytes, thread, where);
    release_as(thread, barrier.arrivals_of_phase());
    --barrier.missing;
    end_phase_if_complete(barrier);
    maybe_give_way();
}

}  // namespace

std::string text_of(const MBarrierWait& wait) {
    const MBarrier& barrier = *wait.barrier;
    const auto bytes = static_cast<long long>(barrier.bytes);
    return format(" for parity %u of an mbarrier in phase %llu, which lacks %u of %u arrivals and %lld bytes",
                  wait.parity, static_cast<unsigned long long>(barrier.phase), barrier.missing, barrier.count, bytes) +
           (bytes < 0 ? " (more have come than were expected)" : "");
}

MBarrier& mbarrier_at(const char* instruction, Block& block, const void* place, Location where) {
    check_place(instruction, block, place, where);
    const auto found = block.mbarriers.find(place);
    if (found == block.mbarriers.end()) {
        fail(format("%s at %p, where no mbarrier has been initialised", instruction, place), where);
    }
    uint64_t pattern;
    copy_unseen(&pattern, place, sizeof pattern);
    if (pattern != pattern_at(place)) {
        fail(format("%s at %p, where something has been written over the mbarrier", instruction, place), where);
    }
    return found->second;
}

void bytes_have_come(MBarrier& barrier, int64_t bytes, const Thread& thread, Location where) {
    add_bytes(barrier, -bytes, thread, where);
    end_phase_if_complete(barrier);
}

void mbarrier_init(uint64_t* place, int count, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    require_capability("mbarrier", 90, where);
    Block& block = current_block();
    check_place("mbarrier.init", block, place, where);
    if (count < 1 || count > kMostCounted)
        fail(format("mbarrier.init for %d arrivals, not 1 to 2^20 - 1", count), where);
    const auto number = static_cast<unsigned>(count);
    const auto [made, is_new] = block.mbarriers.try_emplace(place, MBarrier{number, number});
    if (!is_new) fail(format("mbarrier.init at %p, where there is one", static_cast<void*>(place)), where);
    const race::Context thread = current_thread().fiber.context();
    write_as(thread, place, MBarrier::kBytes, instruction);
    race::release(made->second.allocated);
    acquire_as(thread, made->second.allocated);
    write_as(thread, made->second.shown_to_proxies, MBarrier::kBytes, instruction);
    const uint64_t pattern = pattern_at(place);
    copy_unseen(place, &pattern, sizeof pattern);
}

void fence_mbarrier_init(Location where) {
    const EnterRuntime entered;
    require_capability("fence.mbarrier_init", 90, where);
    fence_proxy(current_thread());
}

void mbarrier_arrive(uint64_t* barrier, int bytes, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    require_capability("mbarrier", 90, where);
    arrive("mbarrier.arrive", current_block(), barrier, bytes, instruction, where);
}

void mbarrier_arrive_at(uint64_t* barrier, unsigned rank, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    require_capability("mbarrier", 90, where);
    check_place("mbarrier.arrive", current_block(), barrier, where);
    maybe_give_way();
    Block& block = reachable_block("mbarrier.arrive", rank, where);
    const void* there = current_block().shared.counterpart(barrier, MBarrier::kBytes, block.shared, where);
    arrive("mbarrier.arrive", block, there, 0, instruction, where);
}

// As a loop of mbarrier.try_wait: when the thread has its turn, the barrier may be a phase further on already, and the
// parity be that of the phase to come.
void mbarrier_wait(uint64_t* place, unsigned parity, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    require_capability("mbarrier", 90, where);
    if (parity > 1) fail(format("mbarrier.try_wait for parity %u, not 0 or 1", parity), where);
    Thread& thread = current_thread();
    MBarrier& barrier = mbarrier_at("mbarrier.try_wait", current_block(), place, where);
    read_as(thread.fiber.context(), place, MBarrier::kBytes, instruction);
    maybe_give_way();
    while (barrier.phase % 2 == parity) {
        barrier.waiting.push_back(&thread);
        thread.waits_for = {&barrier, parity};
        wait_for_others("mbarrier.try_wait", where);
    }
    thread.waits_for = {};
    barrier.waited = barrier.phase;
    acquire_as(thread, barrier.arrivals[parity]);
}

}  // namespace emulator
