#include "runtime/async_copy.h"

#include "emulator/async_copy.h"
#include "emulator/config.h"
#include "emulator/counters.h"
#include "runtime/error.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

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
    Companion& copies = companion(thread, Beside::copies);
    begin_after(copies, thread.fiber.context());
    if (copy.read > 0) read_as(copies.context, copy.source, copy.read, instruction);
    write_as(copies.context, copy.target, Copy::kBytes, instruction);
}

}  // namespace

void Copy::act() {
    copy_unseen(target, source, read);
    fill_unseen(target + read, 0, kBytes - read);
}

void copy_async_16(void* shared, const void* global, int bytes, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    check(shared, global, bytes, where);
    Thread& thread = current_thread();
    count(shared, where);
    Copy& copy = thread.copies.in_no_group.emplace_back(shared, global, static_cast<size_t>(bytes), where);
    touch(copy.source, copy.read);
    note(thread, copy, instruction);
    if (config().completion == Completion::eager) {
        copy.happen();
        return;
    }
    if (config().poison != 0) fill_unseen(copy.target, 0xff, Copy::kBytes);
    copy.happen_in_time();
    maybe_give_way();
}

void commit_copies() {
    const EnterRuntime entered;
    Thread& thread = current_thread();
    CopyGroup& group = thread.copies.groups.emplace_back();
    group.copies.swap(thread.copies.in_no_group);
    if (!group.copies.empty()) release_as(companion(thread, Beside::copies).context, group.there);
}

void wait_for_copies(int pending) {
    const EnterRuntime entered;
    Thread& thread = current_thread();
    std::list<CopyGroup>& groups = thread.copies.groups;
    while (groups.size() > static_cast<size_t>(pending)) {
        CopyGroup& oldest = groups.front();
        for (Copy& copy : oldest.copies) copy.happen();
        acquire_as(thread.fiber.context(), oldest.there);
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
