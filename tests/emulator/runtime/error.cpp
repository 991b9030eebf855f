#include "runtime/error.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "emulator/config.h"
#include "runtime/scheduler.h"

namespace emulator {

std::string format(const char* pattern, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, pattern);
    std::vsnprintf(text, sizeof text, pattern, arguments);
    va_end(arguments);
    return text;
}

std::string text_of(Location where) { return where.file_name() + format(":%u", static_cast<unsigned>(where.line())); }

std::string text_of(const Thread& thread) {
    const uint3 block = thread.block.position;
    return format("block (%u, %u, %u) thread (%u, %u, %u) [warp %u lane %u]", block.x, block.y, block.z,
                  thread.position.x, thread.position.y, thread.position.z, thread.warp(), thread.lane());
}

bool same_place(Location a, Location b) {
    if (a.line() != b.line() || a.column() != b.column()) return false;
    return a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0;
}

void fail(const std::string& message, Location where) { fail(message, where, current_thread()); }

void fail(const std::string& message, Location where, const Thread& culprit) {
    stop_launch(std::string(kernel_in_launch()) + ": " + message + ", at " + text_of(where) + " in " +
                text_of(culprit));
}

void require_capability(const char* instruction, int capability, Location where) {
    const int has = config().compiled_for;
    if (has >= capability) return;
    fail(format("%s needs compute capability %d.%d, the kernel was compiled for %d.%d", instruction, capability / 10,
                capability % 10, has / 10, has % 10),
         where);
}

}  // namespace emulator
