// Barriers of a block, and memory fences.
#pragma once

#include "emulator/location.h"

namespace emulator {

enum class Reduction { none, bitwise_or, bitwise_and, count };

// All threads of the block; the value is the reduction of everybody's predicate.
int block_barrier(const char* operation, Reduction reduction, int predicate, Location where);

// Named barrier `id` (0 to 15) for `threads` threads, a multiple of 32: `barrier.sync` waits for the others,
// `barrier.arrive` goes on.
void named_barrier_sync(unsigned id, unsigned threads, Location where = Location::current());
void named_barrier_arrive(unsigned id, unsigned threads, Location where = Location::current());

void memory_fence();

// A thread that polls gives the others a chance to run; an error if that goes on without end.
void pause(Location where);

[[noreturn]] void trap(Location where);

}  // namespace emulator

inline void __syncthreads(emulator::Location where = emulator::Location::current()) {
    emulator::block_barrier("__syncthreads", emulator::Reduction::none, 0, where);
}

inline int __syncthreads_or(int predicate, emulator::Location where = emulator::Location::current()) {
    return emulator::block_barrier("__syncthreads_or", emulator::Reduction::bitwise_or, predicate, where);
}

inline int __syncthreads_and(int predicate, emulator::Location where = emulator::Location::current()) {
    return emulator::block_barrier("__syncthreads_and", emulator::Reduction::bitwise_and, predicate, where);
}

inline int __syncthreads_count(int predicate, emulator::Location where = emulator::Location::current()) {
    return emulator::block_barrier("__syncthreads_count", emulator::Reduction::count, predicate, where);
}

inline void __threadfence() { emulator::memory_fence(); }
inline void __threadfence_block() { emulator::memory_fence(); }
inline void __threadfence_system() { emulator::memory_fence(); }

inline void __nanosleep(unsigned, emulator::Location where = emulator::Location::current()) { emulator::pause(where); }

[[noreturn]] inline void __trap(emulator::Location where = emulator::Location::current()) { emulator::trap(where); }
