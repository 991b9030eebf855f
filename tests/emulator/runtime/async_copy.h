// cp.async: what is on its way, in which group, and when it arrives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <utility>

#include "emulator/location.h"
#include "runtime/sanitize.h"

namespace emulator {

struct Thread;

struct Copy {
    static constexpr size_t kBytes = 16;

    char* target;
    const char* source;
    size_t read;  // bytes of the source; the rest become zeros
    Location where;
    bool done = false;
    std::pair<uint64_t, uint64_t> due{};  // Completion::random: the step, and a number

    void happen();
};

// Lists, because CopiesDue points at copies.
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
    race::Context context = nullptr;
    std::string name;  // of the context
    race::Sync start;
};

// Completion::random: a step of any thread brings copies nearer.
class CopiesDue {
  public:
    void add(Copy& copy, uint64_t steps);
    void remove(const Copy& copy) { due_.erase(copy.due); }
    void step();

  private:
    uint64_t now_ = 0;
    uint64_t number_ = 0;
    std::map<std::pair<uint64_t, uint64_t>, Copy*> due_;
};

// Nobody waits for them any more.
void refuse_exit_during_copy(const Thread& thread);

}  // namespace emulator
