#include "runtime/cluster.h"

#include "emulator/cluster.h"
#include "runtime/error.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

// PTX ISA: all threads that have not exited. The next arrival is for another phase.
void complete_if_all_arrived(Cluster& cluster) {
    if (cluster.phase->arrived == 0 || cluster.phase->arrived < cluster.threads() - cluster.exited) return;
    const std::shared_ptr<ClusterPhase> phase = cluster.phase;
    cluster.phase = std::make_shared<ClusterPhase>();
    cluster.has_met = true;
    phase->complete = true;
    for (Thread* thread : phase->waiting) make_ready(*thread);
}

}  // namespace

Cluster::Cluster(dim3 grid, dim3 shape, unsigned count, unsigned index, size_t shared_bytes) : shape(shape) {
    for (unsigned rank = 0; rank < count; ++rank) {
        const unsigned block = index * count + rank;
        const uint3 position{block % grid.x, block / grid.x % grid.y, block / (grid.x * grid.y)};
        blocks.push_back(std::make_unique<Block>(*this, rank, position, shared_bytes));
    }
}

Block& reachable_block(const char* instruction, unsigned rank, Location where) {
    Block& own = current_block();
    Cluster& cluster = own.cluster;
    if (rank >= cluster.blocks.size()) {
        fail(format("%s to block %u of a cluster of %zu", instruction, rank, cluster.blocks.size()), where);
    }
    Block& block = *cluster.blocks[rank];
    if (block.is_over()) fail(format("%s to block %u of the cluster, which has exited", instruction, rank), where);
    if (&block != &own && !cluster.has_met) {
        fail(format("%s to block %u of the cluster, which may not have begun: its threads have not met yet",
                    instruction, rank),
             where);
    }
    return block;
}

void leave_cluster_barrier(const Thread& thread) {
    Cluster& cluster = thread.block.cluster;
    if (thread.arrived_at == cluster.phase) --cluster.phase->arrived;
    complete_if_all_arrived(cluster);
}

unsigned cluster_rank(Location where) {
    const EnterRuntime entered;
    require_capability("%cluster_ctarank", 90, where);
    return current_block().rank;
}

void cluster_arrive(Location where) {
    const EnterRuntime entered;
    require_capability("barrier.cluster", 90, where);
    Thread& thread = current_thread();
    if (thread.arrived_at != nullptr) fail("the thread arrives twice at the cluster's barrier", where);
    Cluster& cluster = thread.block.cluster;
    for (unsigned lane = 0; lane < thread.block.lanes_of_warp(thread.warp()); ++lane) {
        const Thread& other = lane_of_current_warp(lane);
        if (other.arrived_at != cluster.phase || same_place(other.arrived_where, where)) continue;
        fail("divergent barrier.cluster: " + text_of(other) + " is at " + text_of(other.arrived_where), where);
    }
    thread.arrived_at = cluster.phase;
    thread.arrived_where = where;
    release_as(thread, cluster.phase->sync);
    ++cluster.phase->arrived;
    complete_if_all_arrived(cluster);
    maybe_give_way();
}

void cluster_wait(Location where) {
    const EnterRuntime entered;
    require_capability("barrier.cluster", 90, where);
    Thread& thread = current_thread();
    if (thread.arrived_at == nullptr) fail("the thread waits at the cluster's barrier and has not arrived", where);
    if (thread.arrived_at->complete) {
        give_way();
    } else {
        thread.arrived_at->waiting.push_back(&thread);
        wait_for_others("barrier.cluster.wait", where);
    }
    acquire_as(thread, thread.arrived_at->sync);
    thread.arrived_at = nullptr;
}

float load_from_block(const float* mine, unsigned rank, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    require_capability("ld.shared::cluster", 90, where);
    if (reinterpret_cast<uintptr_t>(mine) % sizeof(float) != 0) {
        fail(format("ld.shared::cluster from %p, which is not a multiple of 4", static_cast<const void*>(mine)), where);
    }
    Block& block = reachable_block("ld.shared::cluster", rank, where);
    const void* there = current_block().shared.counterpart(mine, sizeof(float), block.shared, where);
    if (there == nullptr) {
        fail(format("ld.shared::cluster from %p, which is not in the block's shared memory",
                    static_cast<const void*>(mine)),
             where);
    }
    maybe_give_way();
    read_as(current_thread().fiber.context(), there, sizeof(float), instruction);
    float value;
    copy_unseen(&value, there, sizeof value);
    return value;
}

}  // namespace emulator
