#include "runtime/async_copy.h"

#include "emulator/async_copy.h"
#include "emulator/config.h"
#include "emulator/counters.h"
#include "runtime/error.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

// The longest delay is about 2^14 steps: a main loop's turn is some hundred to some thousand of them.
constexpr unsigned kDelays = 15;

void check(const void* shared, const void* global, int bytes, Location where) {
    require_capability("cp.async", 80, where);
    if (bytes < 0 || bytes > static_cast<int>(Copy::kBytes)) {
        fail(format("cp.async reads 0 to 16 bytes, not %d", bytes), where);
    }
    if (reinterpret_cast<uintptr_t>(shared) % Copy::kBytes != 0) {
        fail(format("cp.async to %p, which is not a multiple of 16", shared), where);
    }
    if (reinterpret_cast<uintptr_t>(global) % Copy::kBytes != 0) {
        fail(format("cp.async from %p, which is not a multiple of 16", global), where);
    }
    const SharedArena& arena = current_block().shared;
    if (!arena.contains(shared, Copy::kBytes)) {
        fail(format("cp.async to %p, which is not in the block's shared memory", shared), where);
    }
    if (bytes > 0 && arena.contains(global, 1)) {
        fail(format("cp.async from %p, which is in shared memory, not in global", global), where);
    }
}

// That the source can be read shows where the copy is started, not where it happens.
void touch(const char* source, size_t bytes) {
    char bin[Copy::kBytes];
    copy_unseen(bin, source, bytes);
}

void count(const void* shared, Location where) {
    const Thread& thread = current_thread();
    ++counters().copies;
    CopyPhases& phases = current_block().warps[thread.warp()].copy_phases;
    if (phases.conflicts(thread.lane(), where.line(), where.column(), shared)) ++counters().copy_conflicts;
}

void note(Thread& thread, const Copy& copy, const void* instruction) {
    if (!race::kActive) return;
    CopiesOfThread& copies = thread.copies;
    if (copies.context == nullptr) {
        copies.context = thread.fiber.context_of_copies();
        race::rename(copies.context, copies.name.c_str());
    }
    release_as(thread.fiber.context(), copies.start);
    acquire_as(copies.context, copies.start);
    if (copy.read > 0) read_as(copies.context, copy.source, copy.read, instruction);
    write_as(copies.context, copy.target, Copy::kBytes, instruction);
}

}  // namespace

void Copy::happen() {
    if (done) return;
    done = true;
    copy_unseen(target, source, read);
    fill_unseen(target + read, 0, kBytes - read);
}

void CopiesDue::add(Copy& copy, uint64_t steps) {
    copy.due = {now_ + steps, ++number_};
    due_.emplace(copy.due, &copy);
}

void CopiesDue::step() {
    ++now_;
    while (!due_.empty() && due_.begin()->first.first <= now_) {
        due_.begin()->second->happen();
        due_.erase(due_.begin());
    }
}

void copy_async_16(void* shared, const void* global, int bytes, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    check(shared, global, bytes, where);
    Thread& thread = current_thread();
    count(shared, where);
    thread.copies.in_no_group.push_back(
        {static_cast<char*>(shared), static_cast<const char*>(global), static_cast<size_t>(bytes), where});
    Copy& copy = thread.copies.in_no_group.back();
    touch(copy.source, copy.read);
    note(thread, copy, instruction);
    if (config().completion == Completion::eager) {
        copy.happen();
        return;
    }
    if (config().poison != 0) fill_unseen(copy.target, 0xff, Copy::kBytes);
    if (config().completion == Completion::random) {
        current_block().copies_due.add(copy, random_of_launch().below(1u << random_of_launch().below(kDelays)));
    }
    maybe_give_way();
}

void commit_copies() {
    const EnterRuntime entered;
    CopiesOfThread& copies = current_thread().copies;
    CopyGroup& group = copies.groups.emplace_back();
    group.copies.swap(copies.in_no_group);
    if (copies.context != nullptr) release_as(copies.context, group.there);
}

void wait_for_copies(int pending) {
    const EnterRuntime entered;
    Thread& thread = current_thread();
    std::list<CopyGroup>& groups = thread.copies.groups;
    while (groups.size() > static_cast<size_t>(pending)) {
        CopyGroup& oldest = groups.front();
        for (Copy& copy : oldest.copies) {
            if (config().completion == Completion::random) current_block().copies_due.remove(copy);
            copy.happen();
        }
        if (thread.copies.context != nullptr) acquire_as(thread.fiber.context(), oldest.there);
        groups.pop_front();
    }
}

void refuse_exit_during_copy(const Thread& thread) {
    for (const CopyGroup& group : thread.copies.groups) {
        if (group.copies.empty()) continue;
        fail("the thread exits and has not waited for its copy", group.copies.front().where, thread);
    }
    if (thread.copies.in_no_group.empty()) return;
    fail("the thread exits and has put its copy into no group", thread.copies.in_no_group.front().where, thread);
}

}  // namespace emulator
