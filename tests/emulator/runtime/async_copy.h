// cp.async: what is on its way, in which group, and when it arrives.
#pragma once

#include <cstddef>
#include <list>

#include "emulator/location.h"
#include "runtime/event.h"
#include "runtime/sanitize.h"

namespace emulator {

struct Thread;

struct Copy : Event {
    static constexpr size_t kBytes = 16;

    Copy(void* shared, const void* global, size_t read, Location where)
        : target(static_cast<char*>(shared)), source(static_cast<const char*>(global)), read(read), where(where) {}
    void act() override;

    char* target;
    const char* source;
    size_t read;  // bytes of the source; the rest become zeros
    Location where;
};

// Lists, because the agenda points at copies.
struct CopyGroup {
    std::list<Copy> copies;
    race::Sync there;  // what a wait for the group puts in order
};

// Those that the thread has started and not waited for, oldest first.
//
// To the race detector the copies of a thread are a thread beside it, which begins a copy after what the thread has
// done before. What they read and write is in order with the thread's own accesses after a wait, and with those of
// other threads after whatever they wait for on top: until then nobody may touch it, barriers or not.
struct CopiesOfThread {
    std::list<CopyGroup> groups;
    std::list<Copy> in_no_group;
};

// Nobody waits for them any more.
void refuse_exit_during_copy(const Thread& thread);

}  // namespace emulator
