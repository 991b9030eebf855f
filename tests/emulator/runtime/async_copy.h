// cp.async: what is on its way, in which group, and when it arrives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <utility>

#include "emulator/location.h"

namespace emulator {

struct Thread;

struct Copy {
    static constexpr size_t kBytes = 16;

    char* target;
    const char* source;
    size_t read;  // bytes of the source; the rest become zeros
    uint64_t group;
    Location where;
    const void* instruction;  // its place in the kernel's code, for the race detector
    bool done = false;
    std::pair<uint64_t, uint64_t> due{};  // Completion::random: the step, and a number

    void happen();
};

// Those that the thread has started and not waited for, oldest first. A list, because CopiesDue points at them.
struct CopiesOfThread {
    std::list<Copy> started;
    uint64_t committed = 0;  // groups; a copy's group is this number when it is started
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
