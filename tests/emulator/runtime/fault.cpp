#include "runtime/fault.h"

#include <vector>

#include "runtime/error.h"
#include "runtime/sanitize.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

// The sanitizers have handlers of their own, which say more.
constexpr bool kWanted = !address::kActive && !race::kActive;
constexpr size_t kHandlerStack = 64 * 1024;

// Runs on a stack of its own, since the thread's may be what has overflowed, and leaves it for the scheduler. The fault
// came from an instruction of the kernel, not in the middle of a library function, so anything may be called.
void handle(int signal, siginfo_t*, void*) {
    if (!in_kernel()) {
        std::signal(signal, SIG_DFL);
        std::raise(signal);
        return;
    }
    stop_launch(std::string(kernel_in_launch()) +
                ": the processor refuses a memory access, which is misaligned or far outside, or the stack has "
                "overflowed (the address sanitizer names the line), in " +
                text_of(current_thread()));
}

}  // namespace

CatchFaults::CatchFaults() {
    if (!kWanted) return;
    static std::vector<char> memory(kHandlerStack);
    stack_t stack{};
    stack.ss_sp = memory.data();
    stack.ss_size = memory.size();
    sigaltstack(&stack, &stack_before_);
    struct sigaction action{};
    action.sa_sigaction = handle;
    // Not blocked during the handler, which does not return.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &before_[i]);
}

CatchFaults::~CatchFaults() {
    if (!kWanted) return;
    for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
    sigaltstack(&stack_before_, nullptr);
}

}  // namespace emulator
