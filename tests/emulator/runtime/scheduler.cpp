#include "runtime/scheduler.h"

#include <map>
#include <stdexcept>

#include "emulator/builtins.h"
#include "emulator/launch.h"
#include "runtime/error.h"
#include "runtime/fault.h"
#include "runtime/order.h"
#include "runtime/shared.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace emulator {

namespace {

// What is going on. One launch at a time, one thread at a time.
struct Now {
    const Launch* launch = nullptr;
    Block* block = nullptr;
    Thread* thread = nullptr;
    Random random;
    std::string failure;
    race::Context scheduler = nullptr;
};
Now now;

void exit_thread() {
    Thread& thread = *now.thread;
    refuse_exit_during_barrier(thread);
    refuse_exit_during_collective(thread);
    refuse_exit_during_copy(thread);
    thread.state = State::exited;
    now.block->ready.erase(thread.index);
    ++now.block->exited;
}

// The first function on a thread's stack. It never returns: below it there is nothing.
void thread_main() {
    Thread& thread = *now.thread;
    thread.fiber.arrived();
    acquire_as(thread.fiber.context(), now.block->begin);
    race::switch_to(thread.fiber.context());
    now.launch->run(now.launch->body);
    race::switch_to(now.scheduler);
    thread.in_runtime = true;
    release_as(thread.fiber.context(), now.block->end);
    exit_thread();
    thread.fiber.leave_for_good();
}

void run_until_it_waits(Thread& thread) {
    now.thread = &thread;
    threadIdx = thread.position;
    thread.fiber.enter();
    now.thread = nullptr;
}

// Everybody waits for somebody: where, and how many.
std::string deadlock(const Block& block) {
    struct Group {
        unsigned threads = 0;
        std::string first;
    };
    std::map<std::string, Group> groups;
    for (const Thread& thread : block.threads) {
        const bool gone = thread.state == State::exited;
        Group& group = groups[gone ? "exited" : thread.operation + (" at " + text_of(thread.where))];
        if (group.threads++ == 0) group.first = text_of(thread);
    }
    std::string text = std::string(now.launch->name) + ": deadlock, no thread can run";
    for (const auto& [place, group] : groups) {
        text += format("\n    %4u threads: ", group.threads) + place + ", first " + group.first;
    }
    return text;
}

void start_threads(Block& block) {
    for (Thread& thread : block.threads) {
        if (race::kActive) {
            // Here, and not on the threads' stacks: a string's functions may be those of the kernels' object file,
            // which the race detector looks at, and it would take for the host's what they write there.
            const std::string name = text_of(thread);
            race::rename(thread.fiber.context(), name.c_str());
            thread.copies.name = "copy of " + name;
        }
        thread.fiber.prepare(thread_main);
        block.ready.insert(thread.index);
    }
}

// After an error threads are left where they stand. That the host then goes on is no race with them.
void release_abandoned(Block& block) {
    for (const Thread& thread : block.threads) {
        if (thread.state == State::exited) continue;
        release_as(thread.fiber.context(), block.end);
        if (thread.copies.context != nullptr) release_as(thread.copies.context, block.end);
    }
}

void run_block(Block& block) {
    now.block = &block;
    blockIdx = block.position;
    race::release(block.begin);
    start_threads(block);
    ThreadOrder order(config().order, static_cast<unsigned>(block.warps.size()), now.random);
    while (block.exited < block.threads.size() && now.failure.empty()) {
        if (block.ready.size() == 0) {
            now.failure = deadlock(block);
        } else {
            run_until_it_waits(block.threads[order.next(block.ready)]);
            block.copies_due.step();
        }
    }
    if (!now.failure.empty()) release_abandoned(block);
    race::acquire(block.end);
    if (now.failure.empty()) {
        const std::string overrun = block.shared.overrun();
        if (!overrun.empty()) {
            now.failure = std::string(now.launch->name) + ": " + overrun +
                          format(", in block (%u, %u, %u)", block.position.x, block.position.y, block.position.z);
        }
    }
    now.block = nullptr;
}

unsigned volume(dim3 shape) { return shape.x * shape.y * shape.z; }

}  // namespace

cudaError_t run_launch(const Launch& launch) {
    if (volume(launch.blocks) == 0 || volume(launch.threads) == 0 || volume(launch.threads) > kMostThreads) {
        return cudaErrorInvalidConfiguration;
    }
    if (launch.shared_bytes > dynamic_shared_limit(launch.kernel)) return cudaErrorInvalidValue;
    now.launch = &launch;
    now.scheduler = race::current();
    now.failure.clear();
    now.random.seed(config().seed);
    const CatchFaults catch_faults;
    blockDim = launch.threads;
    gridDim = launch.blocks;
    for (const unsigned index : block_order(config().order, volume(launch.blocks), now.random)) {
        const dim3& grid = launch.blocks;
        const uint3 position{index % grid.x, index / grid.x % grid.y, index / (grid.x * grid.y)};
        Block block(grid, launch.threads, position, launch.shared_bytes);
        run_block(block);
        if (!now.failure.empty()) throw std::runtime_error(now.failure);
    }
    return cudaSuccess;
}

size_t& dynamic_shared_limit(const void* kernel) {
    static std::map<const void*, size_t> limits;
    return limits.try_emplace(kernel, kMostStaticShared).first->second;
}

Random& random_of_launch() { return now.random; }
Block& current_block() { return *now.block; }
bool in_kernel() { return now.thread != nullptr; }
Thread& current_thread() { return *now.thread; }
std::string_view kernel_in_launch() { return now.launch->name; }

void wait_for_others(const char* operation, Location where) {
    Thread& thread = *now.thread;
    thread.state = State::waiting;
    thread.operation = operation;
    thread.where = where;
    now.block->ready.erase(thread.index);
    thread.fiber.leave();
}

void make_ready(Thread& thread) {
    thread.state = State::ready;
    now.block->ready.insert(thread.index);
}

void give_way() {
    if (config().order != Order::forward) now.thread->fiber.leave();
}

void maybe_give_way() {
    const bool shuffled = config().order == Order::random || config().order == Order::priority;
    if (shuffled && now.random.below(4) == 0) now.thread->fiber.leave();
}

void stop_launch(const std::string& message) {
    now.failure = message;
    now.thread->fiber.leave_for_good();
}

EnterRuntime::EnterRuntime() : entered_(!now.thread->in_runtime) {
    if (!entered_) return;
    now.thread->in_runtime = true;
    race::switch_to(now.scheduler);
}

EnterRuntime::~EnterRuntime() {
    if (!entered_) return;
    now.thread->in_runtime = false;
    race::switch_to(now.thread->fiber.context());
}

void release_as(race::Context context, race::Sync& sync) {
    race::switch_to(context);
    race::release(sync);
    race::switch_to(now.scheduler);
}

void acquire_as(race::Context context, race::Sync& sync) {
    race::switch_to(context);
    race::acquire(sync);
    race::switch_to(now.scheduler);
}

void read_as(race::Context context, const void* memory, size_t bytes, const void* instruction) {
    race::switch_to(context);
    race::read(memory, bytes, instruction);
    race::switch_to(now.scheduler);
}

void write_as(race::Context context, const void* memory, size_t bytes, const void* instruction) {
    race::switch_to(context);
    race::write(memory, bytes, instruction);
    race::switch_to(now.scheduler);
}

}  // namespace emulator
