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
    Thread* thread = nullptr;
    Random random;
    Agenda agenda;
    std::string failure;
    race::Context scheduler = nullptr;
};
Now now;

// An error while no thread runs.
struct Stopped {};

void exit_thread() {
    Thread& thread = *now.thread;
    Block& block = thread.block;
    refuse_exit_during_barrier(thread);
    refuse_exit_during_collective(thread);
    refuse_exit_during_copy(thread);
    refuse_exit_during_store(thread);
    refuse_exit_without_registers(thread);
    refuse_exit_during_products(thread);
    keep_stores(thread);
    thread.state = State::exited;
    block.cluster.ready.erase(thread.place);
    ++block.exited;
    ++block.cluster.exited;
    leave_cluster_barrier(thread);
    if (block.is_over()) refuse_exit_during_load(block);
}

void release_all(const Thread& thread, race::Sync& end) {
    release_as(thread.fiber.context(), end);
    for (const Companion& companion : thread.beside) {
        if (companion.context != nullptr) release_as(companion.context, end);
    }
}

// The first function on a thread's stack. It never returns: below it there is nothing.
void thread_main() {
    Thread& thread = *now.thread;
    thread.fiber.arrived();
    acquire_as(thread.fiber.context(), thread.block.cluster.begin);
    race::switch_to(thread.fiber.context());
    now.launch->run(now.launch->body);
    race::switch_to(now.scheduler);
    thread.in_runtime = true;
    release_all(thread, thread.block.cluster.end);
    exit_thread();
    thread.fiber.leave_for_good();
}

void run_until_it_waits(Thread& thread) {
    now.thread = &thread;
    threadIdx = thread.position;
    blockIdx = thread.block.position;
    thread.fiber.enter();
    now.thread = nullptr;
}

// Everybody waits for somebody: where, and how many.
std::string deadlock(const Cluster& cluster) {
    struct Group {
        unsigned threads = 0;
        std::string first;
    };
    std::map<std::string, Group> groups;
    const auto place_of = [](const Thread& thread) {
        if (thread.state == State::exited) return std::string("exited");
        const std::string what = thread.waits_for.barrier == nullptr ? "" : text_of(thread.waits_for);
        return thread.operation + what + " at " + text_of(thread.where);
    };
    for (const std::unique_ptr<Block>& block : cluster.blocks) {
        for (const Thread& thread : block->threads) {
            Group& group = groups[place_of(thread)];
            if (group.threads++ == 0) group.first = text_of(thread);
        }
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
            constexpr const char* kNames[kBeside] = {"copy of ", "proxy of ", "product of ", "load of ", "store of "};
            for (size_t i = 0; i < kBeside; ++i) thread.beside[i].name = kNames[i] + name;
        }
        thread.fiber.prepare(thread_main);
        block.cluster.ready.insert(thread.place);
    }
}

// After an error threads are left where they stand. That the host then goes on is no race with them.
void release_abandoned(Cluster& cluster) {
    for (const std::unique_ptr<Block>& block : cluster.blocks) {
        for (const Thread& thread : block->threads) {
            if (thread.state != State::exited) release_all(thread, cluster.end);
        }
    }
}

void run_threads(Cluster& cluster) {
    ThreadOrder order(config().order, cluster.places() / 32, now.random);
    while (cluster.exited < cluster.threads() && now.failure.empty()) {
        if (cluster.ready.size() > 0) {
            run_until_it_waits(cluster.at(order.next(cluster.ready)));
            if (now.failure.empty()) now.agenda.step();
        } else if (!now.agenda.hurry() && !hurry_load(cluster)) {
            now.failure = deadlock(cluster);
        }
    }
}

void run_cluster(Cluster& cluster) {
    race::release(cluster.begin);
    for (const std::unique_ptr<Block>& block : cluster.blocks) start_threads(*block);
    try {
        run_threads(cluster);
    } catch (const Stopped&) {
    }
    if (!now.failure.empty()) release_abandoned(cluster);
    race::acquire(cluster.end);
    for (const std::unique_ptr<Block>& block : cluster.blocks) {
        const std::string overrun = block->shared.overrun();
        if (!now.failure.empty() || overrun.empty()) continue;
        const uint3 position = block->position;
        now.failure = std::string(now.launch->name) + ": " + overrun +
                      format(", in block (%u, %u, %u)", position.x, position.y, position.z);
    }
}

unsigned volume(dim3 shape) { return shape.x * shape.y * shape.z; }

}  // namespace

cudaError_t run_launch(const Launch& launch) {
    if (volume(launch.blocks) == 0 || volume(launch.threads) == 0 || volume(launch.threads) > kMostThreads) {
        return cudaErrorInvalidConfiguration;
    }
    if (launch.cluster > 1 && config().capability < 90) return cudaErrorNotSupported;
    if (launch.cluster == 0 || launch.cluster > kMostBlocksOfCluster || launch.blocks.x % launch.cluster != 0) {
        return cudaErrorInvalidClusterSize;
    }
    if (launch.shared_bytes > dynamic_shared_limit(launch.kernel)) return cudaErrorInvalidValue;
    now.launch = &launch;
    now.scheduler = race::current();
    now.failure.clear();
    now.random.seed(config().seed);
    forget_stores();
    const CatchFaults catch_faults;
    blockDim = launch.threads;
    gridDim = launch.blocks;
    const unsigned clusters = volume(launch.blocks) / launch.cluster;
    for (const unsigned index : block_order(config().order, clusters, now.random)) {
        Cluster cluster(launch.blocks, launch.threads, launch.cluster, index, launch.shared_bytes);
        run_cluster(cluster);
        if (!now.failure.empty()) throw std::runtime_error(now.failure);
    }
    finish_stores();
    return cudaSuccess;
}

size_t& dynamic_shared_limit(const void* kernel) {
    static std::map<const void*, size_t> limits;
    return limits.try_emplace(kernel, kMostStaticShared).first->second;
}

Random& random_of_launch() { return now.random; }
Agenda& agenda_of_launch() { return now.agenda; }
Block& current_block() { return now.thread->block; }
bool in_kernel() { return now.thread != nullptr; }
Thread& current_thread() { return *now.thread; }
std::string_view kernel_in_launch() { return now.launch->name; }

void wait_for_others(const char* operation, Location where) {
    Thread& thread = *now.thread;
    thread.state = State::waiting;
    thread.operation = operation;
    thread.where = where;
    thread.block.cluster.ready.erase(thread.place);
    thread.fiber.leave();
}

void make_ready(Thread& thread) {
    thread.state = State::ready;
    thread.block.cluster.ready.insert(thread.place);
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
    if (now.thread == nullptr) throw Stopped{};
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

void add_as(race::Context context, void* memory, size_t bytes, size_t element_bytes, const void* instruction) {
    race::switch_to(context);
    race::add(memory, bytes, element_bytes, instruction);
    race::switch_to(now.scheduler);
}

}  // namespace emulator
