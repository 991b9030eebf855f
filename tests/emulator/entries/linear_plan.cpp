// What csrc/linear decides on the host: shares and pieces, places of tiles, the choice of a row and of a number of
// blocks; and where things lie in shared memory. No kernel runs.
#include <type_traits>
#include <utility>

#include "core/shape.h"
#include "driver/entry.h"

namespace halfops {

// select() asks for tiles and steps with each number of blocks that it thinks about: a measure of its time.
int64_t divisions = 0;
constexpr int64_t counted_ceil_div(int64_t a, int64_t b) {
    if (!std::is_constant_evaluated()) ++divisions;
    return ceil_div(a, b);
}

}  // namespace halfops
#define ceil_div counted_ceil_div
#include "linear/policy.h"
#undef ceil_div

#include "linear/epilogue.cuh"
#include "linear/schedule.h"
#include "linear/tile.h"

namespace {

using namespace emulator;
using namespace halfops;
using namespace halfops::linear;

Schedule schedule_of(const Arguments& arguments) {
    const auto* s = arguments["schedule"].as<int64_t>();
    return Schedule::make(s[0], s[1], s[2], s[3], s[4], s[5]);
}

// f(index, row of results) for each of the indices, with `kWidth` results each.
template <int kWidth, class F>
void for_each_index(const Arguments& arguments, const F& f) {
    const Array indices = arguments["indices"];
    auto* results = arguments["results"].as<int64_t>();
    for (int64_t i = 0; i < indices.count<int64_t>(); ++i) f(indices.as<int64_t>()[i], results + i * kWidth);
}

void shares(const Arguments& arguments) {
    const Schedule schedule = schedule_of(arguments);
    for_each_index<1>(arguments, [&](int64_t i, int64_t* result) { *result = schedule.share_begin(i); });
}

void owners(const Arguments& arguments) {
    const Schedule schedule = schedule_of(arguments);
    for_each_index<1>(arguments, [&](int64_t i, int64_t* result) { *result = schedule.block_of(i); });
}

void places(const Arguments& arguments) {
    const Schedule schedule = schedule_of(arguments);
    for_each_index<3>(arguments, [&](int64_t i, int64_t* result) {
        const TilePlace place = schedule.place_of(static_cast<int32_t>(i));
        result[0] = place.m;
        result[1] = place.n;
        result[2] = place.batch;
    });
}

// All pieces of the blocks, as the kernel walks through them: block, tile, first and last step, slot, and whether it is
// the whole tile.
void pieces(const Arguments& arguments) {
    const Schedule schedule = schedule_of(arguments);
    auto* count = arguments["count"].as<int64_t>();
    auto* results = arguments["results"].as<int64_t>();
    const Array blocks = arguments["indices"];
    for (int64_t i = 0; i < blocks.count<int64_t>(); ++i) {
        const int64_t block = blocks.as<int64_t>()[i];
        schedule.for_each_piece(block, [&](const Piece& piece) {
            int64_t* row = results + (*count)++ * 6;
            row[0] = block;
            row[1] = piece.tile;
            row[2] = piece.first;
            row[3] = piece.last;
            row[4] = piece.slot;
            row[5] = schedule.is_whole(piece);
        });
    }
}

void groups(const Arguments& arguments) {
    const Array problems = arguments["problems"];
    auto* results = arguments["results"].as<int64_t>();
    for (int64_t i = 0; i < problems.count<int64_t>() / 5; ++i) {
        const auto* p = problems.as<int64_t>() + i * 5;
        results[i] = best_group(p[0], p[1], p[2], static_cast<int>(p[3]), static_cast<int>(p[4]));
    }
}

void policies(const Arguments& arguments) {
    auto* results = arguments["results"].as<int64_t>();
    for (const Policy& p : kPolicies) {
        for (const int64_t number : {p.m, p.n, p.k, p.stages, p.warps_m, p.warps_n, static_cast<int>(p.copy),
                                     p.blocks_per_multiprocessor, shared_bytes(p) + kOwnShared}) {
            *results++ = number;
        }
    }
}

// Of each problem: row, blocks, tiles, steps of a tile, divisions, clocks; and for each row whether it can serve.
void selections(const Arguments& arguments) {
    const Array problems = arguments["problems"];
    auto* results = arguments["results"].as<int64_t>();
    for (int64_t i = 0; i < problems.count<int64_t>() / 14; ++i) {
        const auto* p = problems.as<int64_t>() + i * 14;
        const auto small = [&](int j) { return static_cast<int>(p[j]); };
        const Shape shape{p[0],
                          p[1],
                          p[2],
                          p[3],
                          p[4],
                          static_cast<Major>(p[5]),
                          static_cast<Major>(p[6]),
                          p[7] != 0,
                          p[8] != 0,
                          p[9] != 0,
                          p[10],
                          small(11),
                          small(12),
                          small(13)};
        divisions = 0;
        const Selection selection = select(shape);
        *results++ = selection.policy;
        *results++ = selection.blocks;
        const int64_t made = divisions;
        *results++ = selection.policy < 0 ? 0 : tiles_of(kPolicies[selection.policy], shape);
        *results++ = selection.policy < 0 ? 0 : steps_of(kPolicies[selection.policy], shape);
        *results++ = made;
        *results++ = selection.policy < 0
                         ? 0
                         : static_cast<int64_t>(clocks_of(kPolicies[selection.policy], shape, selection.blocks));
        for (const Policy& policy : kPolicies) *results++ = serves(policy, shape);
    }
}

// --- shared memory --------------------------------------------------------------------------------------------------

template <class Tile>
void tile_offsets(const Arguments& arguments) {
    auto* results = arguments["results"].as<int64_t>();
    *results++ = Tile::kLines;
    *results++ = Tile::kChunks;
    for (int line = 0; line < Tile::kLines; ++line) {
        for (int chunk = 0; chunk < Tile::kChunks; ++chunk) *results++ = Tile::offset(line, chunk);
    }
}

template <int kRow>
void tile_of_row(const Arguments& arguments, bool b, Major major) {
    constexpr Policy p = kPolicies[kRow];
    if constexpr (p.copy == Copy::bulk) {
        refuse_call("the copy engine lays out this row's stages", "tile");
    } else if (major == Major::k) {
        return b ? tile_offsets<typename TileOf<Major::k, p.n, p.k>::Type>(arguments)
                 : tile_offsets<typename TileOf<Major::k, p.m, p.k>::Type>(arguments);
    } else {
        return b ? tile_offsets<typename TileOf<Major::mn, p.n, p.k>::Type>(arguments)
                 : tile_offsets<typename TileOf<Major::mn, p.m, p.k>::Type>(arguments);
    }
}

template <int... kRows>
void tile_of_row(const Arguments& arguments, int row, bool b, Major major, std::integer_sequence<int, kRows...>) {
    ((kRows == row ? tile_of_row<kRows>(arguments, b, major) : void()), ...);
}

// Lines, chunks, and the offset in bytes of every chunk of every line.
void tile(const Arguments& arguments) {
    const auto* which = arguments["which"].as<int64_t>();  // row, operand, major
    tile_of_row(arguments, static_cast<int>(which[0]), which[1] != 0, static_cast<Major>(which[2]),
                std::make_integer_sequence<int, kPolicyCount>{});
}

template <int kColumns>
void patch_offsets(int64_t* results) {
    *results++ = Patch<kColumns>::kFloats;
    for (int row = 0; row < kPatchRows; ++row) {
        for (int column = 0; column < kColumns; ++column) *results++ = Patch<kColumns>::offset(row, column);
    }
}

// Floats in all, and the offset in floats of every column of every row.
void patch(const Arguments& arguments) {
    auto* results = arguments["results"].as<int64_t>();
    arguments.value<int64_t>("columns") == 64 ? patch_offsets<64>(results) : patch_offsets<32>(results);
}

const Entry entries[] = {{"shares", shares},         {"owners", owners}, {"places", places},
                         {"pieces", pieces},         {"groups", groups}, {"policies", policies},
                         {"selections", selections}, {"tile", tile},     {"patch", patch}};

}  // namespace
