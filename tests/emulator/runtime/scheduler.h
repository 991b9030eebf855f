// Runs clusters of blocks one after the other, and within a cluster one thread at a time until it has to wait.
#pragma once

#include <string>
#include <string_view>

#include "emulator/location.h"
#include "runtime/cluster.h"
#include "runtime/order.h"

namespace emulator {

Block& current_block();
Thread& current_thread();
bool in_kernel();
Random& random_of_launch();
Agenda& agenda_of_launch();
std::string_view kernel_in_launch();

// The current thread waits until another one calls `make_ready` for it.
void wait_for_others(const char* operation, Location where);
void make_ready(Thread& thread);

// The current thread could go on, but the order may prefer others. `give_way` after a meeting of threads: without it
// the one that came last would always be first to go on. `maybe_give_way` wherever a device might switch.
void give_way();
void maybe_give_way();

// The current thread, if any, never goes on, and the launch fails with this message.
[[noreturn]] void stop_launch(const std::string& message);

// Every function that a kernel calls in the runtime begins with one of these: the runtime works in the scheduler's
// context of the race detector, and goes back to the thread's own at the end.
class EnterRuntime {
  public:
    EnterRuntime();
    ~EnterRuntime();
    EnterRuntime(const EnterRuntime&) = delete;
    EnterRuntime& operator=(const EnterRuntime&) = delete;

  private:
    bool entered_;
};

// What a barrier is to the race detector, said in the name of a thread.
void release_as(race::Context context, race::Sync& sync);
void acquire_as(race::Context context, race::Sync& sync);
// What an instruction reads or writes, as if the kernel had done it at the address of `instruction` in its code.
void read_as(race::Context context, const void* memory, size_t bytes, const void* instruction);
void write_as(race::Context context, const void* memory, size_t bytes, const void* instruction);
void add_as(race::Context context, void* memory, size_t bytes, size_t element_bytes, const void* instruction);

}  // namespace emulator
