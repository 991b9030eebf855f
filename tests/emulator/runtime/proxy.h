// What goes on beside a CUDA thread, as the race detector sees it.
//
// The copy engine and the tensor cores of a warpgroup reach memory through the asynchronous proxy, which does not see
// what a thread has written until the thread has said fence.proxy.async. So a thread has a second context, which stands
// for what the proxy knows of the threads: a fence tells it all that its thread knows, and whatever synchronises
// threads passes on what the threads know and what their proxies know, each to its own kind. A proxy never knows more
// than its thread.
//
// Each asynchronous operation is a context of its own. It begins after its thread (cp.async, and a load's writes) or
// after its thread's proxy (what an operation reads in shared memory), and only a wait for it puts what it has read and
// written in order with what follows.
#pragma once

#include <string>

#include "runtime/sanitize.h"

namespace emulator {

struct Thread;

// What goes on beside a thread: its cp.async copies, its proxy, its warpgroup's products; and loads and stores of the
// copy engine, which have a context each and here only a name.
enum class Beside { copies, proxy, products, load, store };
inline constexpr size_t kBeside = 5;

struct Companion {
    race::Context context = nullptr;  // none as long as nothing has happened in it
    std::string name;
    race::Sync start;
};

// Makes the context if need be. It knows what came before the block.
Companion& companion(Thread& thread, Beside what);

// What the companion does from here on comes after what has been done in `before`, always the same context.
void begin_after(Companion& companion, race::Context before);

// Something that threads synchronise on: their own contexts, and their proxies.
struct SyncPoint {
    race::Sync threads;
    race::Sync proxies;
    bool proxies_know = false;
};

void release_as(Thread& thread, SyncPoint& point);
void acquire_as(Thread& thread, SyncPoint& point);
// The end of an asynchronous operation, which is seen by threads and by their proxies.
void release_as(race::Context operation, SyncPoint& point);

// fence.proxy.async and fence.mbarrier_init: the proxy knows what the thread knows.
void fence_proxy(Thread& thread);

}  // namespace emulator
