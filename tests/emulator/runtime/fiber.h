// A fiber: a stack of its own on which a CUDA thread runs until it has to wait. Switching costs some nanoseconds.
#pragma once

#include <cstddef>

#include "runtime/proxy.h"
#include "runtime/sanitize.h"

namespace emulator {

class Fiber {
  public:
    // Takes the stack and the race detector's context number `index`. Fibers used one after the other may share one,
    // fibers in use at the same time may not.
    explicit Fiber(size_t index);

    // Of all fibers; none may be in use. A process has 65,530 mappings, a stack with its guard is two.
    static void give_back_stacks();

    // From the scheduler: starts `main` at its beginning, or goes on where the fiber left.
    void prepare(void (*main)());
    void enter();

    // From the fiber: back to the scheduler. `leave_for_good` never returns, and the stack may be used again.
    void leave();
    [[noreturn]] void leave_for_good();

    // First thing that `main` calls.
    void arrived();

    race::Context context() const { return context_; }
    // Made when the first fiber of this number asks.
    race::Context context_beside(Beside what) const;

  private:
    size_t index_;
    char* stack_;
    void* stack_pointer_ = nullptr;
    void* saved_by_address_ = nullptr;
    race::Context context_;
};

}  // namespace emulator
