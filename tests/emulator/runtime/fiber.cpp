#include "runtime/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <new>
#include <vector>

// Keeps the registers that a function must preserve on the stack that is left, and takes those of the stack entered.
// swapcontext does the same with two system calls, thirty times slower.
extern "C" void halfops_emulator_switch(void** left_stack_pointer, void* entered_stack_pointer);
asm(R"(
.text
.globl halfops_emulator_switch
.hidden halfops_emulator_switch
.type halfops_emulator_switch, @function
halfops_emulator_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
.size halfops_emulator_switch, .-halfops_emulator_switch
)");

namespace emulator {

namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kSavedRegisters = 6;

// The scheduler's own stack, which it shares with the program that launched the kernel.
struct SchedulerStack {
    void* stack_pointer = nullptr;
    void* saved_by_address = nullptr;
    const void* bottom = nullptr;
    size_t bytes = 0;
};
SchedulerStack scheduler;

struct Resources {
    char* stack;
    race::Context context;
    std::array<race::Context, kBeside> beside{};
};

// A page that may not be touched lies below the stack: an overflow stops at once.
size_t guard_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

Resources allocate() {
    const size_t guard = guard_bytes();
    void* memory =
        mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0) throw std::bad_alloc();
    return {static_cast<char*>(memory) + guard, race::create()};
}

// Kept for the next block: a context of the race detector takes most of a megabyte and is slow to make.
std::vector<Resources> pool;

Resources& resources(size_t index) {
    while (pool.size() <= index) pool.push_back(allocate());
    return pool[index];
}

}  // namespace

Fiber::Fiber(size_t index) : index_(index), stack_(resources(index).stack), context_(resources(index).context) {}

void Fiber::give_back_stacks() {
    for (const Resources& each : pool) {
        munmap(each.stack - guard_bytes(), guard_bytes() + kStackBytes);
        if (each.context != nullptr) race::destroy(each.context);
        for (race::Context beside : each.beside) {
            if (beside != nullptr) race::destroy(beside);
        }
    }
    pool.clear();
}

race::Context Fiber::context_beside(Beside what) const {
    race::Context& context = resources(index_).beside[static_cast<size_t>(what)];
    if (context == nullptr) context = race::create();
    return context;
}

void Fiber::prepare(void (*main)()) {
    // A thread that was left in the middle of a function has left marks around its variables.
    address::allow(stack_, kStackBytes);
    void** top = reinterpret_cast<void**>(stack_ + kStackBytes);
    *--top = nullptr;  // in the place of a return address, so that the stack is aligned as the ABI wants it
    *--top = reinterpret_cast<void*>(main);
    for (size_t i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
    stack_pointer_ = top;
    saved_by_address_ = nullptr;
}

void Fiber::enter() {
    address::before_switch(&scheduler.saved_by_address, stack_, kStackBytes);
    halfops_emulator_switch(&scheduler.stack_pointer, stack_pointer_);
    address::after_switch(scheduler.saved_by_address, nullptr, nullptr);
}

void Fiber::arrived() { address::after_switch(nullptr, &scheduler.bottom, &scheduler.bytes); }

void Fiber::leave() {
    address::before_switch(&saved_by_address_, scheduler.bottom, scheduler.bytes);
    halfops_emulator_switch(&stack_pointer_, scheduler.stack_pointer);
    address::after_switch(saved_by_address_, nullptr, nullptr);
}

void Fiber::leave_for_good() {
    address::before_switch(nullptr, scheduler.bottom, scheduler.bytes);
    halfops_emulator_switch(&stack_pointer_, scheduler.stack_pointer);
    std::abort();
}

}  // namespace emulator
