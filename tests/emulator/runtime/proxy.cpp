#include "runtime/proxy.h"

#include "runtime/cluster.h"
#include "runtime/scheduler.h"

namespace emulator {

Companion& companion(Thread& thread, Beside what) {
    Companion& companion = thread.beside[static_cast<size_t>(what)];
    if (race::kActive && companion.context == nullptr) {
        companion.context = thread.fiber.context_beside(what);
        race::rename(companion.context, companion.name.c_str());
        acquire_as(companion.context, thread.block.cluster.begin);
    }
    return companion;
}

void begin_after(Companion& companion, race::Context before) {
    release_as(before, companion.start);
    acquire_as(companion.context, companion.start);
}

void release_as(Thread& thread, SyncPoint& point) {
    release_as(thread.fiber.context(), point.threads);
    // Without a context the proxy knows nothing that anybody could miss.
    const race::Context proxy = thread.beside[static_cast<size_t>(Beside::proxy)].context;
    if (proxy == nullptr) return;
    release_as(proxy, point.proxies);
    point.proxies_know = true;
}

void acquire_as(Thread& thread, SyncPoint& point) {
    acquire_as(thread.fiber.context(), point.threads);
    if (point.proxies_know) acquire_as(companion(thread, Beside::proxy).context, point.proxies);
}

void release_as(race::Context operation, SyncPoint& point) {
    release_as(operation, point.threads);
    release_as(operation, point.proxies);
    point.proxies_know = race::kActive;
}

void fence_proxy(Thread& thread) { begin_after(companion(thread, Beside::proxy), thread.fiber.context()); }

}  // namespace emulator
