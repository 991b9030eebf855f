// The plain build: a shared library that Python calls in its own process.
#include <exception>
#include <string>

#include "driver/entry.h"
#include "emulator/config.h"
#include "emulator/counters.h"
#include "runtime/fiber.h"

using namespace emulator;

// The next call takes stacks anew.
extern "C" __attribute__((visibility("default"))) void halfops_emulator_give_back_stacks() {
    Fiber::give_back_stacks();
}

// nullptr, or what was thrown; the text lives until the next call.
extern "C" __attribute__((visibility("default"))) const char* halfops_emulator_call(const char* entry,
                                                                                    const Array* arrays, int64_t count,
                                                                                    const Config* wanted,
                                                                                    Counters* counted) {
    static std::string message;
    config() = *wanted;
    counters() = {};
    try {
        call_entry(entry, Arguments(arrays, count));
        *counted = counters();
        return nullptr;
    } catch (const std::exception& error) {
        message = error.what();
        return message.c_str();
    }
}
