// Errors: what the kernel did wrong, and exactly where.
#pragma once

#include <string>

#include "emulator/location.h"

namespace emulator {

struct Thread;

std::string text_of(Location where);        // file:line
std::string text_of(const Thread& thread);  // block, thread, warp, lane
std::string format(const char* pattern, ...) __attribute__((format(printf, 1, 2)));
bool same_place(Location a, Location b);

// Ends the launch, which throws a std::runtime_error. The current thread is left where it stands, as are all others.
[[noreturn]] void fail(const std::string& message, Location where);
// The same, when it was another thread than the current one that did it.
[[noreturn]] void fail(const std::string& message, Location where, const Thread& culprit);

// An error if the device is older than the instruction.
void require_capability(const char* instruction, int capability, Location where);

}  // namespace emulator
