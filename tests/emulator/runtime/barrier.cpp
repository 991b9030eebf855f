#include "runtime/barrier.h"

#include <cstring>

#include "runtime/error.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

// Of a block; some for each of its threads.
constexpr unsigned kMostPauses = 1000 * 1000;

struct Use {
    unsigned id;
    const char* operation;
    Reduction reduction;
    unsigned threads;
    bool whole_block;
};

BarrierPhase& phase_of(const Use& use) {
    Barrier& barrier = current_block().barriers[use.id];
    if (barrier.phase == nullptr) {
        barrier.phase = std::make_unique<BarrierPhase>();
        barrier.phase->operation = use.operation;
        barrier.phase->reduction = use.reduction;
        barrier.phase->threads = use.threads;
        barrier.phase->whole_block = use.whole_block;
    }
    return *barrier.phase;
}

void check_arrival(const BarrierPhase& phase, const Use& use, Location where) {
    const Thread& thread = current_thread();
    if (phase.threads != use.threads) {
        fail(
            format("barrier %u is used with %u threads here and with %u elsewhere", use.id, use.threads, phase.threads),
            where);
    }
    for (const BarrierPhase::Arrival& other : phase.arrivals) {
        if (other.thread == &thread) fail(format("the thread arrives twice at barrier %u", use.id), where);
        const bool together = phase.whole_block || use.whole_block || other.thread->warp() == thread.warp();
        if (together && !same_place(other.where, where)) {
            fail(std::string("divergent barrier: ") + text_of(*other.thread) + " is at " + text_of(other.where), where);
        }
        // Those who came before have been compared with the first, and none of them goes on before the last is here.
        if (phase.whole_block && use.whole_block) break;
    }
}

int reduced(const BarrierPhase& phase) {
    int count = 0;
    for (const BarrierPhase::Arrival& arrival : phase.arrivals) count += arrival.predicate != 0 ? 1 : 0;
    switch (phase.reduction) {
        case Reduction::bitwise_or:
            return count > 0 ? 1 : 0;
        case Reduction::bitwise_and:
            return count == static_cast<int>(phase.threads) ? 1 : 0;
        case Reduction::count:
            return count;
        case Reduction::none:
            break;
    }
    return 0;
}

// The last thread has come: everybody knows what everybody did before.
void complete(unsigned id) {
    const std::unique_ptr<BarrierPhase> phase = std::move(current_block().barriers[id].phase);
    const int result = reduced(*phase);
    for (const BarrierPhase::Arrival& arrival : phase->arrivals) {
        arrival.thread->barrier_result = result;
        if (!arrival.waits) continue;
        acquire_as(*arrival.thread, phase->sync);
        if (arrival.thread != &current_thread()) make_ready(*arrival.thread);
    }
}

int arrive(const Use& use, int predicate, bool waits, Location where) {
    BarrierPhase& phase = phase_of(use);
    check_arrival(phase, use, where);
    release_as(current_thread(), phase.sync);
    phase.arrivals.push_back({&current_thread(), where, predicate, waits});
    if (phase.arrivals.size() == phase.threads) {
        complete(use.id);
        give_way();
    } else if (waits) {
        wait_for_others(use.operation, where);
    }
    return current_thread().barrier_result;
}

void use_named(unsigned id, unsigned threads, bool waits, Location where) {
    const EnterRuntime entered;
    if (id > 15) fail(format("there is no barrier %u, only 0 to 15", id), where);
    if (threads == 0 || threads % 32 != 0) {
        fail(format("a barrier is for a multiple of 32 threads, not for %u", threads), where);
    }
    arrive({id, waits ? "barrier.sync" : "barrier.arrive", Reduction::none, threads, false}, 0, waits, where);
}

}  // namespace

int block_barrier(const char* operation, Reduction reduction, int predicate, Location where) {
    const EnterRuntime entered;
    const Block& block = current_block();
    if (block.exited > 0) {
        fail(format("%s, but %u threads of the block have exited", operation, block.exited), where);
    }
    const unsigned threads = static_cast<unsigned>(block.threads.size());
    return arrive({0, operation, reduction, threads, true}, predicate, true, where);
}

void named_barrier_sync(unsigned id, unsigned threads, Location where) { use_named(id, threads, true, where); }
void named_barrier_arrive(unsigned id, unsigned threads, Location where) { use_named(id, threads, false, where); }

void refuse_exit_during_barrier(const Thread& thread) {
    const BarrierPhase* phase = current_block().barriers[0].phase.get();
    if (phase == nullptr || !phase->whole_block) return;
    fail(format("the thread exits while %zu threads wait in %s", phase->arrivals.size(), phase->operation),
         phase->arrivals.front().where, thread);
}

// Two fences that follow each other are taken to be in order, whatever memory tells one thread of the other's: the
// detector may miss a race, but reports no false one.
void memory_fence() {
    const EnterRuntime entered;
    static race::Sync fences;
    acquire_as(current_thread().fiber.context(), fences);
    release_as(current_thread().fiber.context(), fences);
}

void pause(Location where) {
    const EnterRuntime entered;
    if (++current_block().pauses > kMostPauses) fail("the threads of the block poll without end", where);
    current_thread().fiber.leave();
}

void trap(Location where) {
    const EnterRuntime entered;
    fail("__trap", where);
}

}  // namespace emulator
