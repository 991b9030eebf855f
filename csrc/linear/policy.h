// The table of tiles, one row a policy, and the choice of a row and a number of blocks for a problem.
//
// A policy is a block's tile of the output, the depth of K that one stage holds, how many stages are in flight, and
// how the tile is divided among warps. A new one is a row here and a file in instances/.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/shape.h"
#include "linear/operand.h"

namespace halfops::linear {

// How operands come to shared memory: 16 bytes at a time without registers, which wants aligned lines and sm_80; or
// through registers, from any address with any strides, on any device.
enum class Copy : int { async, staged };

struct Policy {
    const char* name;
    int m, n, k, stages;
    int warps_m, warps_n;
    Copy copy;
    int blocks_per_multiprocessor;  // that registers and shared memory of sm_80 allow; __launch_bounds__ holds to it
    // Of the tensor pipes' rate while the tile's loop runs: the smaller of 1 and what shared memory can feed. Counted
    // on paper (docs/kernels.md), not yet measured.
    float rate;
};

// | row          | bytes from shared memory for an output and a k | why it is here                                  |
// | 128x256      | 64x64 of a warp: 1/32 + 1/32                   | large outputs: least traffic from L2            |
// | 256x128      | the same                                       | the same, where M is the longer side            |
// | 128x128      | the same, two blocks a multiprocessor          | one block's epilogue hides in the other's loop  |
// | 64x128       | 32x64: 1/32 + 1/16                             | outputs too small to fill a device with 128x128 |
// | 64x64        | 32x32: 1/16 + 1/16                             | smaller ones                                    |
// | 32x128       | 32x32                                          | M to 32: bound by the weight's way from memory  |
// | 16x128       | 16x32                                          | M to 16                                         |
// | *, staged    | 64x32, 32x32                                   | odd leading dimensions, any strides, sm_75      |
inline constexpr Policy kPolicies[] = {
    {"128x256x32", 128, 256, 32, 4, 2, 4, Copy::async, 1, 0.90f},
    {"256x128x32", 256, 128, 32, 4, 4, 2, Copy::async, 1, 0.90f},
    {"128x128x32", 128, 128, 32, 4, 2, 2, Copy::async, 2, 0.88f},
    {"64x128x32", 64, 128, 32, 4, 2, 2, Copy::async, 3, 0.75f},
    {"64x64x64", 64, 64, 64, 3, 2, 2, Copy::async, 4, 0.60f},
    {"32x128x64", 32, 128, 64, 4, 1, 4, Copy::async, 2, 0.50f},
    {"16x128x64", 16, 128, 64, 5, 1, 4, Copy::async, 2, 0.30f},
    {"128x128x32 staged", 128, 128, 32, 2, 2, 4, Copy::staged, 1, 0.45f},
    {"64x64x32 staged", 64, 64, 32, 2, 2, 2, Copy::staged, 2, 0.30f},
};
inline constexpr int kPolicyCount = static_cast<int>(sizeof(kPolicies) / sizeof(Policy));

HALFOPS_HD constexpr int threads_of(const Policy& p) { return 32 * p.warps_m * p.warps_n; }
HALFOPS_HD constexpr int warp_m(const Policy& p) { return p.m / p.warps_m; }
HALFOPS_HD constexpr int warp_n(const Policy& p) { return p.n / p.warps_n; }

// Accumulators go through shared memory on their way out, sixteen rows of a warp's tile at a time (epilogue.cuh); there
// is room for two such patches a warp.
inline constexpr int kPatchRows = 16, kPatchPad = 8;

HALFOPS_HD constexpr int shared_bytes(const Policy& p) {
    const int stages = p.stages * (p.m + p.n) * p.k * 2;
    const int patches = p.warps_m * p.warps_n * 2 * kPatchRows * (warp_n(p) + kPatchPad) * 4;
    return stages > patches ? stages : patches;
}

// What select() knows of a problem and of a device.
struct Shape {
    int64_t m, n, k;  // n: columns of accumulators, both halves of a gated problem
    int64_t products, batch;
    Major major_a, major_b;
    bool aligned;  // every line of every operand begins at a multiple of 16 bytes
    int multiprocessors, shared_bytes_per_block, compute_major;
};

struct Selection {
    int policy;
    int64_t blocks;
};

// The layouts for which a row's kernels exist. Few rows go with a forward pass or a dgrad; and nothing in a network has
// both operands the other way round.
HALFOPS_HD constexpr bool has_layout(const Policy& p, Major a, Major b) {
    const bool turned = a == Major::mn && b == Major::k;
    return (p.m >= 64 || a == Major::k) && (!turned || p.m * p.n <= 128 * 128);
}

// Whether a row can serve a problem at all.
constexpr bool serves(const Policy& p, const Shape& s) {
    const bool copies = p.copy == Copy::staged || (s.aligned && s.compute_major >= 8);
    return copies && has_layout(p, s.major_a, s.major_b) && shared_bytes(p) <= s.shared_bytes_per_block;
}

constexpr int64_t tiles_of(const Policy& p, const Shape& s) {
    return ceil_div(s.m, p.m) * ceil_div(s.n, p.n) * s.batch;
}
constexpr int64_t steps_of(const Policy& p, const Shape& s) { return s.products * larger(1, ceil_div(s.k, p.k)); }
// A step a block at least.
constexpr int64_t most_blocks(const Policy& p, const Shape& s) { return tiles_of(p, s) * steps_of(p, s); }

// Clocks that the rows' blocks would take, the basis of the choice. A multiprocessor multiplies 1024 pairs of numbers a
// clock; a block needs kFixed for its first loads and its epilogue; partial sums cost a second launch and their way
// through memory at kBytes a clock and multiprocessor. All of it is counted, not yet measured.
constexpr double clocks_of(const Policy& p, const Shape& s, int64_t blocks) {
    constexpr double kPairs = 1024, kFixed = 2500, kLaunch = 6000, kBytes = 20, kFromL2 = 40, kFromMemory = 18;
    const int64_t tiles = tiles_of(p, s);
    const double steps = static_cast<double>(tiles) * static_cast<double>(steps_of(p, s)) / static_cast<double>(blocks);
    const double pairs = static_cast<double>(p.m) * p.n * p.k / (kPairs * static_cast<double>(p.rate));
    const double bytes = (p.m + p.n) * p.k * 2.0 / kFromL2;
    const double step = pairs > bytes ? pairs : bytes;
    const int64_t slots = static_cast<int64_t>(s.multiprocessors) * p.blocks_per_multiprocessor;
    const int64_t waves = ceil_div(blocks, slots);
    // Blocks that share a multiprocessor share its pipes; in a last wave that is not full each has more of them.
    const int64_t sharing = blocks >= slots ? p.blocks_per_multiprocessor : ceil_div(blocks, s.multiprocessors);
    double clocks = static_cast<double>(waves) * (steps * step * static_cast<double>(sharing) + kFixed);
    // No faster than the operands come from memory once.
    const double once = (static_cast<double>(s.m) + static_cast<double>(s.n)) * static_cast<double>(s.k) *
                        static_cast<double>(s.batch) * 2.0 / (kFromMemory * s.multiprocessors);
    if (clocks < once + kFixed) clocks = once + kFixed;
    if (blocks > tiles) {
        const double sums = static_cast<double>(blocks) * p.m * p.n * 4.0 * 2.0;
        clocks += kLaunch + sums / (kBytes * s.multiprocessors);
    }
    return clocks;
}

// The row and the number of blocks with the fewest clocks. Every block has the same share of all tiles' steps: one tile
// each, or a part of one (split-K), or, with as many blocks as the device holds, parts of neighbouring tiles
// (stream-K).
constexpr Selection select(const Shape& s) {
    Selection best{-1, 0};
    double fewest = 0;
    const auto consider = [&](int row, int64_t blocks) {
        const double clocks = clocks_of(kPolicies[row], s, blocks);
        if (best.policy < 0 || clocks < fewest) {
            best = {row, blocks};
            fewest = clocks;
        }
    };
    for (int row = 0; row < kPolicyCount; ++row) {
        const Policy& p = kPolicies[row];
        if (!serves(p, s)) continue;
        const int64_t tiles = tiles_of(p, s), steps = steps_of(p, s);
        consider(row, tiles);
        const int64_t slots = static_cast<int64_t>(s.multiprocessors) * p.blocks_per_multiprocessor;
        constexpr int64_t kShortest = 8;  // steps that are worth a block
        // 2, 3, 4, 6, 8, 12, ...: finer steps change little and cost the host time.
        for (int64_t splits = 2; splits <= steps / kShortest && tiles * splits <= 2 * slots;
             splits = (splits & (splits - 1)) == 0 ? splits * 3 / 2 : splits * 4 / 3) {
            consider(row, tiles * splits);
        }
        if (slots > tiles && tiles * steps / slots >= kShortest) consider(row, slots);
        if (tiles > slots && tiles < 8 * slots && tiles % slots != 0) consider(row, slots);
    }
    return best;
}

}  // namespace halfops::linear
