// A kernel that touches memory far away, or 16 bytes at a misaligned address, faults. Without a sanitizer that would
// end the process, and with it Python; while one of these lives, it ends the launch with an error instead.
#pragma once

#include <array>
#include <csignal>

namespace emulator {

class CatchFaults {
  public:
    CatchFaults();
    ~CatchFaults();
    CatchFaults(const CatchFaults&) = delete;
    CatchFaults& operator=(const CatchFaults&) = delete;

  private:
    static constexpr std::array kSignals{SIGSEGV, SIGBUS};
    std::array<struct sigaction, kSignals.size()> before_;
    stack_t stack_before_;
};

}  // namespace emulator
