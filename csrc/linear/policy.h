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

// How operands come to shared memory: 16 bytes at a time without registers, which wants aligned lines and sm_80;
// through registers, from any address with any strides, on any device; or as boxes by the copy engine, which wants
// aligned lines and sm_90a, and goes with that architecture's products of warpgroups.
enum class Copy : int { async, staged, bulk };

struct Policy {
    const char* name;
    int m, n, k, stages;
    int warps_m, warps_n;
    Copy copy;
    int blocks_per_multiprocessor;  // that registers allow, __launch_bounds__ holds to it; see resident_of()
    // Of bulk rows. The tile belongs to a cluster of so many blocks, one below the other, and they share B's copies.
    int cluster = 1;
    // Two warpgroups have a tile each, and while one multiplies, the other finishes; or else they share one.
    bool alternate = false;
};

// Evidence: of the first rows counted (docs/kernels.md), of those for sm_90a what an H200 ran where they were chosen
// (fp16, TFLOP/s and times torch's cuBLAS, benchmarks/results/linear.jsonl).
//
// | row       | tensor : shared clocks of a stage | why it is here                                             |
// | 128x256   | 1024 : 704                        | large outputs: the fewest bytes from L2, 24 a clock        |
// | 256x128   | 1024 : 704                        | the same, where M is the longer side                       |
// | 128x128   | 512 : 384                         | two blocks: one's epilogue hides in the other's loop       |
// | 64x128    | 256 : 288                         | outputs too small to fill a device with 128x128            |
// | 64x64     | 256 : 384                         | smaller ones                                               |
// | 32x128    | 256 : 416                         | M to 32: bound by the weight's way from memory             |
// | 16x128    | 128 : 336                         | M to 16                                                    |
// | *, staged | 512 : 512, 128 : 192              | odd leading dimensions, any strides, sm_75                 |
// | 256x256 bulk  | 1024 : 1024 | 681 at 8192 cubed, 0.95; 682 at 4096 cubed, 0.93                                 |
// | 128x256 bulk  | 1024 : 1024 | 491 at 2048 cubed, 0.79; too few tiles for clusters                              |
// | 256x128 bulk  | 512 : 640   | 355 at wgrad + fp32 sum + statistics of (8192, 768, 3072)                        |
// | 128x128 bulk  | 512 : 640   | 310 at (128, 11008, 4096): outputs too small for 128x256                         |
// | 128x256 turns | 512 : 640   | 421 at 3000 cubed, 0.64: the end of a tile is hidden                             |
// | 64x128 turns  | 256 : 384   | 166 at 1024 cubed, 0.65: one round of tiles                                      |
// | 128x192 bulk  | 768 : 832   | not yet measured: fills three rounds at 3000 cubed, two where N is 768           |
inline constexpr Policy kPolicies[] = {
    {"128x256x32", 128, 256, 32, 4, 2, 4, Copy::async, 1},
    {"256x128x32", 256, 128, 32, 4, 4, 2, Copy::async, 1},
    {"128x128x32", 128, 128, 32, 4, 2, 2, Copy::async, 2},
    {"64x128x32", 64, 128, 32, 4, 2, 2, Copy::async, 2},
    {"64x64x64", 64, 64, 64, 3, 2, 2, Copy::async, 3},
    {"32x128x64", 32, 128, 64, 4, 1, 4, Copy::async, 2},
    {"16x128x64", 16, 128, 64, 5, 1, 4, Copy::async, 2},
    {"128x128x32 staged", 128, 128, 32, 2, 2, 4, Copy::staged, 1},
    {"64x64x32 staged", 64, 64, 32, 2, 2, 2, Copy::staged, 2},
    {"256x256x64 bulk", 256, 256, 64, 4, 4, 8, Copy::bulk, 1, 2},
    {"128x256x64 bulk", 128, 256, 64, 4, 2, 8, Copy::bulk, 1},
    {"256x128x64 bulk", 256, 128, 64, 6, 4, 4, Copy::bulk, 1, 2},
    {"128x128x64 bulk", 128, 128, 64, 6, 2, 4, Copy::bulk, 1},
    {"128x256x64 turns", 128, 256, 64, 4, 2, 8, Copy::bulk, 1, 2, true},
    {"64x128x64 turns", 64, 128, 64, 8, 1, 4, Copy::bulk, 1, 1, true},
    {"128x192x64 bulk", 128, 192, 64, 4, 2, 6, Copy::bulk, 1},
};
inline constexpr int kPolicyCount = static_cast<int>(sizeof(kPolicies) / sizeof(Policy));

// A bulk row's block: a warpgroup that starts copies, and two that multiply; its warps_m and warps_n say how a tile is
// divided for the sums over it and for finish.cuh, 64 x 32 each.
inline constexpr int kWarpgroup = 128, kConsumers = 2;
HALFOPS_HD constexpr int threads_of(const Policy& p) {
    return p.copy == Copy::bulk ? (1 + kConsumers) * kWarpgroup : 32 * p.warps_m * p.warps_n;
}
HALFOPS_HD constexpr int block_m(const Policy& p) { return p.m / p.cluster; }
HALFOPS_HD constexpr int warp_m(const Policy& p) { return p.m / p.warps_m; }
HALFOPS_HD constexpr int warp_n(const Policy& p) { return p.n / p.warps_n; }

// Accumulators go through shared memory on their way out, sixteen rows of a warp's tile at a time (epilogue.cuh); there
// is room for two such patches a warp.
inline constexpr int kPatchRows = 16, kPatchPad = 8;

// Where a warp of a bulk row puts outputs for the copy engine, two times sixteen rows of 128 bytes.
inline constexpr int kOutBytes = kPatchRows * 128, kOutBuffers = 2;

HALFOPS_HD constexpr int shared_bytes(const Policy& p) {
    const int stages = p.stages * (block_m(p) + p.n) * p.k * 2;
    if (p.copy == Copy::bulk) return stages + kConsumers * kWarpgroup / 32 * kOutBuffers * kOutBytes;
    const int patches = p.warps_m * p.warps_n * 2 * kPatchRows * (warp_n(p) + kPatchPad) * 4;
    return stages > patches ? stages : patches;
}

// A block's own few words, and what the alignment of the stages leaves unused.
inline constexpr int kOwnShared = 1024;

// What select() knows of a problem and of a device.
struct Shape {
    int64_t m, n, k;  // n: columns of accumulators, both halves of a gated problem
    int64_t products, batch;
    Major major_a, major_b;
    bool aligned;          // every line of every operand begins at a multiple of 16 bytes
    bool bulk;             // the copy engine of sm_90a is there, and can count what it would copy
    bool gated;            // a tile has columns of two factors, a half each
    int64_t packed_bytes;  // of operands that it can address only once they are copied to aligned lines
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
    const bool copies = p.copy == Copy::staged || (p.copy == Copy::bulk ? s.bulk : s.aligned && s.compute_major >= 8);
    // A half of B is whole slabs of 64 columns, unless lines run along K.
    const bool halves = p.copy != Copy::bulk || !s.gated || s.major_b == Major::k || p.n % 128 == 0;
    return copies && halves && has_layout(p, s.major_a, s.major_b) &&
           shared_bytes(p) + kOwnShared <= s.shared_bytes_per_block;
}

constexpr int64_t tiles_of(const Policy& p, const Shape& s) {
    return ceil_div(s.m, p.m) * ceil_div(s.n, p.n) * s.batch;
}
constexpr int64_t steps_of(const Policy& p, const Shape& s) { return s.products * larger(1, ceil_div(s.k, p.k)); }
// Blocks that a multiprocessor holds; it has about as much shared memory as one block may have.
constexpr int64_t resident_of(const Policy& p, const Shape& s) {
    return larger(1, smaller(p.blocks_per_multiprocessor, s.shared_bytes_per_block / (shared_bytes(p) + kOwnShared)));
}
// A step a block at least.
constexpr int64_t most_blocks(const Policy& p, const Shape& s) { return tiles_of(p, s) * steps_of(p, s); }

// Clocks of a multiprocessor for one stage of a block: its tensor pipes multiply 1024 pairs of numbers a clock, shared
// memory gives and takes 128 bytes, for ldmatrix (512 bytes each) and for the copies.
constexpr double tensor_clocks(const Policy& p) { return p.m * p.n * p.k / 1024.0; }
constexpr double shared_clocks(const Policy& p) {
    const double matrices = p.warps_m * p.warps_n * (warp_m(p) + warp_n(p)) / 16.0 * (p.k / 16.0);
    return matrices * 512 / 128 + (p.m + p.n) * p.k * 2.0 / 128;
}

// Clocks that memory takes, 18 bytes each a multiprocessor (4.2 TB/s of an H200). Tiles at work read the same lines at
// about the same time, and all but the first find them in L2: operands come from memory once. Not so where shares begin
// anywhere in K: then every tile reads its own, unless L2 keeps all of the operands. An H200's times are those of these
// bytes (docs/kernels.md).
inline constexpr double kFromMemory = 18;
constexpr double memory_clocks(const Policy& p, const Shape& s, int64_t shares) {
    constexpr double kKept = 32e6;
    const int64_t tiles = tiles_of(p, s);
    const double once = (static_cast<double>(s.m) + static_cast<double>(s.n)) * static_cast<double>(s.k) *
                        static_cast<double>(s.products) * static_cast<double>(s.batch) * 2.0;
    const double each = static_cast<double>(tiles) * static_cast<double>(steps_of(p, s)) * (p.m + p.n) * p.k * 2.0;
    return (shares % tiles == 0 || once < kKept ? once : each) / (kFromMemory * s.multiprocessors);
}
// Partial sums are written and read again, by a second kernel.
constexpr double sums_clocks(const Policy& p, const Shape& s, int64_t shares) {
    constexpr double kLaunch = 6000;
    if (shares == tiles_of(p, s)) return 0;
    return kLaunch + static_cast<double>(shares) * p.m * p.n * 8.0 / (kFromMemory * s.multiprocessors);
}

// The same for a bulk row: its clusters walk through the shares, as many at a time as the device holds. For each 16 of
// K wgmma reads 64 rows of A and all columns of B, so a stage takes 2048 pairs of numbers a clock of the tensor cores,
// or 128 bytes a clock of shared memory, which gives those and takes the copies, or its bytes' way from L2, where B's
// are shared in a cluster. The tensor cores wait for the end of the last tile, kEnd, and of others until its sums are
// rounded, kRounded; not even so long where the other warpgroup has a tile of its own.
constexpr int64_t clusters_of(const Policy& p, const Shape& s, int64_t shares) {
    return smaller(shares, larger(1, s.multiprocessors / p.cluster));
}
constexpr double bulk_step_clocks(const Policy& p) {
    constexpr double kFromL2 = 51;
    const double rows = block_m(p), columns = p.n, line = 2.0 * p.k;
    const double tensor = rows * columns * p.k / 2048;
    const double read = rows / 64 * (64 + columns) * line, written = (rows + columns) * line;
    const double shared = (read + written) / 128, from_l2 = (rows + columns / p.cluster) * line / kFromL2;
    const double less = p.cluster > 1 ? 0.985 : 1.0;  // fewer bytes from L2 leave the clock higher
    return less * (shared > tensor ? (shared > from_l2 ? shared : from_l2) : (tensor > from_l2 ? tensor : from_l2));
}
constexpr double bulk_clocks_of(const Policy& p, const Shape& s, int64_t shares) {
    constexpr double kPack = 4000, kEnd = 2400.0 / (128 * 256), kRounded = 500.0 / (128 * 256);
    const double first = p.cluster > 1 ? 4000 : 2500;  // a cluster's blocks begin together
    const int64_t tiles = tiles_of(p, s);
    const double steps = static_cast<double>(tiles) * static_cast<double>(steps_of(p, s)) / static_cast<double>(shares);
    const double end = kEnd * block_m(p) * p.n, rounded = p.alternate ? 0.0 : kRounded * block_m(p) * p.n;
    const double rounds = static_cast<double>(ceil_div(shares, clusters_of(p, s, shares)));
    double clocks = first + rounds * steps * bulk_step_clocks(p) + (rounds - 1) * rounded + end;
    const double memory = memory_clocks(p, s, shares);
    if (clocks < memory + first + end) clocks = memory + first + end + clocks / 1024;
    clocks += sums_clocks(p, s, shares);
    if (s.packed_bytes > 0) {
        clocks += kPack + 2.0 * static_cast<double>(s.packed_bytes) / (kFromMemory * s.multiprocessors);
    }
    return clocks;
}

// Clocks that the rows' blocks would take, the basis of the choice. A stage takes what its slowest resource does,
// tensor pipes, shared memory or the way from L2, and a tenth of what the others do, for they get in each other's way;
// through registers, one stage ahead, kStaged of that speed is reached. No stage comes sooner than kLatency after it
// was asked for, one stage ahead less than there are: what a lone block of few bytes waits for (64x64x64 on an H200,
// 128 x 4096 x 4096). A block's first loads take kFirst, and its outputs their way to memory, which another block on
// the multiprocessor can hide; kBegin is what an H200 takes longer for a launch of these rows than of those for Hopper;
// partial sums cost a second launch and their way through memory.
constexpr double clocks_of(const Policy& p, const Shape& s, int64_t blocks) {
    if (p.copy == Copy::bulk) return bulk_clocks_of(p, s, blocks);
    constexpr double kBegin = 4000, kFirst = 1500, kLatency = 2000;
    constexpr double kFromL2 = 40;  // bytes a clock and multiprocessor
    constexpr double kInTheWay = 0.1, kStaged = 0.55;
    const int64_t tiles = tiles_of(p, s);
    const double steps = static_cast<double>(tiles) * static_cast<double>(steps_of(p, s)) / static_cast<double>(blocks);
    const double from_l2 = (p.m + p.n) * p.k * 2.0 / kFromL2;
    double step = from_l2;
    if (step < tensor_clocks(p)) step = tensor_clocks(p);
    if (step < shared_clocks(p)) step = shared_clocks(p);
    step += kInTheWay * (tensor_clocks(p) + shared_clocks(p) + from_l2 - step);
    if (p.copy == Copy::staged) step /= kStaged;
    const int64_t slots = s.multiprocessors * resident_of(p, s);
    const double fixed = kFirst + p.m * p.n * 2.0 / kFromMemory / static_cast<double>(resident_of(p, s));
    const int64_t waves = ceil_div(blocks, slots);
    // Blocks that share a multiprocessor share its pipes; in a last wave that is not full each has more of them.
    const int64_t sharing = blocks >= slots ? resident_of(p, s) : ceil_div(blocks, s.multiprocessors);
    step *= static_cast<double>(sharing);
    if (step < kLatency / (p.stages - 1)) step = kLatency / (p.stages - 1);
    double clocks = static_cast<double>(waves) * (steps * step + fixed);
    // Of rows that all wait for memory, the one with the least to do.
    const double memory = memory_clocks(p, s, blocks);
    if (clocks < memory + fixed) clocks = memory + fixed + clocks / 1024;
    return kBegin + clocks + sums_clocks(p, s, blocks);
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
        const int64_t slots =
            p.copy == Copy::bulk ? s.multiprocessors / p.cluster : s.multiprocessors * resident_of(p, s);
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
