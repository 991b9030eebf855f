// What a run has counted, for tests that ask how a kernel uses shared memory.
#pragma once

#include <cstdint>

namespace emulator {

// Eight lanes at a time move 16 bytes each, in one wavefront if they meet different banks (of 16 bytes, eight of them).
// Conflicts are the further wavefronts. Loads and stores of plain C++ are not seen.
struct Counters {
    int64_t matrices = 0;  // 8x8, by ldmatrix
    int64_t matrix_conflicts = 0;
    int64_t copies = 0;  // of 16 bytes, by cp.async
    int64_t copy_conflicts = 0;
};

// Since the last reset, over all launches.
Counters& counters();

}  // namespace emulator
