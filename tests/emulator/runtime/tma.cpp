#include "runtime/tma.h"

#include "emulator/config.h"
#include "runtime/cluster.h"
#include "runtime/error.h"
#include "runtime/half.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

constexpr const char* kLoad = "cp.async.bulk.tensor";
constexpr const char* kStore = "cp.async.bulk.tensor from shared memory";
constexpr const char* kAdd = "cp.reduce.async.bulk.tensor";

std::vector<std::shared_ptr<TileStore>>& kept_stores() {
    static std::vector<std::shared_ptr<TileStore>> kept;
    return kept;
}

void check_place(const char* instruction, const TensorMap& map, const void* shared, Location where) {
    if (reinterpret_cast<uintptr_t>(shared) % map.alignment() != 0) {
        fail(format("%s at %p, which is not a multiple of %zu", instruction, shared, map.alignment()), where);
    }
    if (!current_block().shared.contains(shared, map.bytes())) {
        fail(format("%s of %zu bytes at %p, which are not in the block's shared memory", instruction, map.bytes(),
                    shared),
             where);
    }
}

// That the tensor can be read shows where the copy is started, not where it happens.
void touch(const Box& box) {
    char bin[kMostRowBytes];
    for (unsigned row = 0; row < box.map.rows(); ++row) {
        const Box::Inside inside = box.inside(row);
        copy_unseen(bin, inside.global, inside.bytes);
    }
}

// A context for one operation, after all that has been done in `before`.
race::Context begin_operation(const Thread& issuer, Beside what, race::Context before, race::Sync& start) {
    const race::Context context = race::create();
    race::rename(context, issuer.beside[static_cast<size_t>(what)].name.c_str());
    release_as(before, start);
    acquire_as(context, start);
    return context;
}

// That of a load comes after what its thread has done before. Its barrier it has to see through the proxy.
void note(Thread& issuer, TileLoad& load, const void* instruction) {
    if (!race::kActive) return;
    const race::Context proxy = companion(issuer, Beside::proxy).context;
    acquire_as(proxy, load.barrier.allocated);
    read_as(proxy, load.barrier.shown_to_proxies, MBarrier::kBytes, instruction);
    load.context = begin_operation(issuer, Beside::load, issuer.fiber.context(), load.start);
    for (unsigned row = 0; row < load.box.map.rows(); ++row) {
        const Box::Inside inside = load.box.inside(row);
        if (inside.bytes > 0) read_as(load.context, inside.global, inside.bytes, instruction);
    }
    write_as(load.context, load.target, load.box.map.bytes(), instruction);
}

// What a store reads comes after what its thread's proxy knows; what it writes, after what the thread has done.
void note(Thread& issuer, TileStore& store, const void* instruction) {
    if (!race::kActive) return;
    const race::Context proxy = companion(issuer, Beside::proxy).context;
    const race::Context context = begin_operation(issuer, Beside::store, proxy, store.start);
    const TensorMap& map = store.box.map;
    read_as(context, store.source, map.bytes(), instruction);
    release_as(context, store.was_read);
    release_as(issuer.fiber.context(), store.started);
    acquire_as(context, store.started);
    for (unsigned row = 0; row < map.rows(); ++row) {
        const Box::Inside inside = store.box.inside(row);
        if (inside.bytes == 0) continue;
        if (store.adds) {
            add_as(context, inside.global, inside.bytes, map.element_bytes(), instruction);
        } else {
            write_as(context, inside.global, inside.bytes, instruction);
        }
    }
    release_as(context, store.was_written);
    race::destroy(context);
}

void refuse_overlap(const Cluster& cluster, const char* target, size_t bytes, Location where) {
    for (const TileLoad& load : cluster.loads) {
        if (load.is_over() || target >= load.target + load.box.map.bytes() || load.target >= target + bytes) continue;
        fail(std::string(kLoad) + " to the place of one that nobody has waited for, begun at " + text_of(load.where),
             where);
    }
}

void start_loads(void* shared, const void* map_place, const std::array<int64_t, 3>& at, uint64_t* barrier,
                 unsigned blocks, const void* instruction, Location where) {
    require_capability(kLoad, 90, where);
    Thread& thread = current_thread();
    Block& own = thread.block;
    const Box box{tensor_map_at(kLoad, map_place, where), at};
    check_place(kLoad, box.map, shared, where);
    mbarrier_at(kLoad, own, barrier, where);
    touch(box);
    if (blocks == 0) fail(std::string(kLoad) + " to no block of the cluster", where);
    std::list<TileLoad>& loads = own.cluster.loads;
    loads.remove_if([](const TileLoad& load) { return load.is_over(); });
    for (unsigned rank = 0; blocks >> rank != 0; ++rank) {
        if ((blocks >> rank & 1) == 0) continue;
        Block& block = reachable_block(kLoad, rank, where);
        char* target = own.shared.counterpart(shared, box.map.bytes(), block.shared, where);
        const void* place = own.shared.counterpart(barrier, MBarrier::kBytes, block.shared, where);
        refuse_overlap(own.cluster, target, box.map.bytes(), where);
        TileLoad& load = loads.emplace_back(box, block, target, mbarrier_at(kLoad, block, place, where), thread, where);
        note(thread, load, instruction);
        if (config().poison != 0) fill_unseen(target, 0xff, box.map.bytes());
        load.happen_in_time();
    }
    maybe_give_way();
}

void start_store(const char* name, const void* map_place, const std::array<int64_t, 3>& at, const void* shared,
                 bool adds, const void* instruction, Location where) {
    require_capability(name, 90, where);
    Thread& thread = current_thread();
    const Box box{tensor_map_at(name, map_place, where), at};
    check_place(name, box.map, shared, where);
    touch(box);
    char* source = static_cast<char*>(const_cast<void*>(shared));
    TileStore& store = *thread.stores.in_no_group.emplace_back(std::make_shared<TileStore>(box, source, adds, where));
    note(thread, store, instruction);
    store.read.happen_in_time();
    maybe_give_way();
}

// Their sum in float, which may be rounded, rounds to the same half as the exact one.
void add_halves(Half format, char* to, const char* from) {
    uint16_t a, b;
    copy_unseen(&a, to, sizeof a);
    copy_unseen(&b, from, sizeof b);
    const uint16_t sum = bits_of(format, static_cast<float>(value_of(format, a) + value_of(format, b)));
    copy_unseen(to, &sum, sizeof sum);
}

void add_floats(char* to, const char* from) {
    float a, b;
    copy_unseen(&a, to, sizeof a);
    copy_unseen(&b, from, sizeof b);
    a += b;
    copy_unseen(to, &a, sizeof a);
}

void add(TensorFormat format, char* to, const char* from) {
    switch (format) {
        case TensorFormat::f32:
            return add_floats(to, from);
        case TensorFormat::f16:
            return add_halves(Half::f16, to, from);
        case TensorFormat::bf16:
            return add_halves(Half::bf16, to, from);
    }
}

}  // namespace

void TileLoad::act() {
    for (unsigned row = 0; row < box.map.rows(); ++row) {
        char bytes[kMostRowBytes];
        const Box::Inside inside = box.inside(row);
        fill_unseen(bytes, 0, box.map.row_bytes());
        copy_unseen(bytes + inside.begin, inside.global, inside.bytes);
        for (size_t byte = 0; byte < box.map.row_bytes(); byte += kChunkBytes) {
            copy_unseen(box.chunk(target, row, byte), bytes + byte, kChunkBytes);
        }
    }
    counted = barrier.phase;
    if (context != nullptr) {
        release_as(context, barrier.arrivals_of_phase());
        race::destroy(context);
    }
    bytes_have_come(barrier, static_cast<int64_t>(box.map.bytes()), issuer, where);
}

void TileStore::Read::act() {
    const Box& box = store.box;
    store.data.resize(box.map.bytes());
    char* to = store.data.data();
    for (unsigned row = 0; row < box.map.rows(); ++row) {
        for (size_t byte = 0; byte < box.map.row_bytes(); byte += kChunkBytes) {
            copy_unseen(to, box.chunk(store.source, row, byte), kChunkBytes);
            to += kChunkBytes;
        }
    }
    store.write.happen_in_time();
}

void TileStore::Write::act() {
    store.read.happen();
    const Box& box = store.box;
    for (unsigned row = 0; row < box.map.rows(); ++row) {
        const Box::Inside inside = box.inside(row);
        const char* from = store.data.data() + row * box.map.row_bytes() + inside.begin;
        if (!store.adds) {
            copy_unseen(inside.global, from, inside.bytes);
            continue;
        }
        for (size_t byte = 0; byte < inside.bytes; byte += box.map.element_bytes()) {
            add(box.map.format, inside.global + byte, from + byte);
        }
    }
}

void prefetch_tensor_map(const void* map, Location where) {
    const EnterRuntime entered;
    require_capability("prefetch.tensormap", 90, where);
    tensor_map_at("prefetch.tensormap", map, where);
}

void tma_load(void* shared, const void* map, int c0, int c1, int c2, uint64_t* barrier, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    start_loads(shared, map, {c0, c1, c2}, barrier, 1u << current_block().rank, instruction, where);
}

void tma_load_multicast(void* shared, const void* map, int c0, int c1, int c2, uint64_t* barrier, uint16_t blocks,
                        Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    start_loads(shared, map, {c0, c1, c2}, barrier, blocks, instruction, where);
}

void tma_store(const void* map, int c0, int c1, int c2, const void* shared, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    start_store(kStore, map, {c0, c1, c2}, shared, false, instruction, where);
}

void tma_add(const void* map, int c0, int c1, int c2, const void* shared, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    start_store(kAdd, map, {c0, c1, c2}, shared, true, instruction, where);
}

void tma_commit(Location where) {
    const EnterRuntime entered;
    require_capability("cp.async.bulk.commit_group", 90, where);
    StoresOfThread& stores = current_thread().stores;
    stores.groups.emplace_back().swap(stores.in_no_group);
}

void tma_wait(int pending, bool read, Location where) {
    const EnterRuntime entered;
    require_capability("cp.async.bulk.wait_group", 90, where);
    Thread& thread = current_thread();
    std::list<StoreGroup>& groups = thread.stores.groups;
    size_t over = groups.size() - std::min(groups.size(), static_cast<size_t>(pending));
    for (auto group = groups.begin(); over > 0; --over) {
        for (const std::shared_ptr<TileStore>& store : *group) {
            store->read.happen();
            store->waited = true;
            if (!read) store->write.happen();
            acquire_as(thread.fiber.context(), read ? store->was_read : store->was_written);
        }
        group = read ? std::next(group) : groups.erase(group);
    }
}

void fence_proxy_async(Location where) {
    const EnterRuntime entered;
    require_capability("fence.proxy.async", 90, where);
    fence_proxy(current_thread());
}

bool hurry_load(Cluster& cluster) {
    for (TileLoad& load : cluster.loads) {
        if (load.happened() || load.barrier.waiting.empty()) continue;
        load.happen();
        return true;
    }
    return false;
}

void refuse_exit_during_store(const Thread& thread) {
    for (const StoreGroup& group : thread.stores.groups) {
        for (const std::shared_ptr<TileStore>& store : group) {
            if (store->waited) continue;
            fail("the thread exits and has not waited until its store has read shared memory", store->where, thread);
        }
    }
    if (thread.stores.in_no_group.empty()) return;
    fail("the thread exits and has put its store into no group", thread.stores.in_no_group.front()->where, thread);
}

void refuse_exit_during_load(const Block& block) {
    for (const TileLoad& load : block.cluster.loads) {
        if (&load.block != &block || load.is_over()) continue;
        fail("the block exits, and nobody in it has waited for this copy", load.where, load.issuer);
    }
}

void keep_stores(Thread& thread) {
    for (const StoreGroup& group : thread.stores.groups) {
        for (const std::shared_ptr<TileStore>& store : group) kept_stores().push_back(store);
    }
    thread.stores.groups.clear();
}

void finish_stores() {
    for (const std::shared_ptr<TileStore>& store : kept_stores()) {
        store->write.happen();
        race::acquire(store->was_written);
    }
    forget_stores();
}

void forget_stores() { kept_stores().clear(); }

}  // namespace emulator
