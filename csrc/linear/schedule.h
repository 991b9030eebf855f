// Who computes what: the steps of all tiles in one line, cut into equal shares, one a block.
//
// A tile's step is one stage of K. With as many blocks as tiles every share is a tile; with s times as many, tiles are
// split along K; with any other number a share may end one tile and begin the next. A share's part of a tile is a
// piece. A tile in one piece is finished by its block; partial sums of other pieces go to slots of the workspace, which
// a second kernel adds in the order of K. So no block ever waits for another, and sums do not depend on who was first.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/shape.h"

namespace halfops::linear {

struct Piece {
    int32_t tile;
    int32_t first, last;  // of the tile's steps, [first, last)
    int32_t slot;         // of the block's two, if the tile has other pieces
};

struct TilePlace {
    int64_t m, n, batch;  // in tiles
};

// There are fewer than 2^31 tiles, and steps of a tile, but perhaps more steps in all. A division takes a kernel some
// hundred clocks, before its first copy starts: what is the same for all blocks is divided here, by `make`, and none is
// left but those for a place.
struct Schedule {
    int64_t tiles_m, tiles_n, batch;
    int64_t steps;  // of a tile
    int64_t blocks;
    int64_t group;  // rows of tiles that are walked through column by column, so that blocks at work share operands
    int64_t share, rest;                 // steps of a block, rounded down, and what that leaves
    double extra;                        // of what is left, on average, a block
    int64_t of_batch, of_group, of_all;  // tiles

    static constexpr Schedule make(int64_t tiles_m, int64_t tiles_n, int64_t batch, int64_t steps, int64_t blocks,
                                   int64_t group) {
        const int64_t total = tiles_m * tiles_n * batch * steps;
        const int64_t share = total / blocks, rest = total % blocks;
        const double extra = static_cast<double>(rest) / static_cast<double>(blocks);
        constexpr int64_t kMost = INT32_MAX;
        const int64_t of_batch = tiles_m * tiles_n;
        return {tiles_m,
                tiles_n,
                batch,
                steps,
                blocks,
                group,
                share,
                rest,
                extra,
                of_batch,
                smaller(kMost, group * tiles_n),
                of_batch * batch};
    }

    HALFOPS_HD int64_t tiles() const { return of_all; }
    HALFOPS_HD int64_t share_begin(int64_t block) const {
        // In two parts, because block * tiles * steps may not fit. block * rest / blocks by a double is right, or one
        // off.
        if (rest == 0) return block * share;
        const auto guess = static_cast<int64_t>(static_cast<double>(block) * extra);
        const int64_t left = block * rest - guess * blocks;
        return block * share + guess + (left < 0 ? -1 : left >= blocks ? 1 : 0);
    }
    // The block whose share holds a step: the last that does not begin behind it. A double says which, or its
    // neighbour.
    HALFOPS_HD int64_t block_of(int64_t step) const {
        const double place = static_cast<double>(step + 1) * static_cast<double>(blocks);
        const auto guess = static_cast<int64_t>(place / static_cast<double>(tiles() * steps));
        const int64_t block = smaller(blocks - 1, guess);
        if (share_begin(block) > step) return block - 1;
        return block + 1 < blocks && share_begin(block + 1) <= step ? block + 1 : block;
    }
    // The piece that begins at a step of a block's share, which goes from `begin` to `end`, where tiles are split.
    HALFOPS_HD Piece piece_at(int64_t begin, int64_t end, int64_t step) const {
        const int64_t tile = step / steps, first = step - tile * steps;
        const int64_t last = smaller(steps, end - tile * steps);
        return {static_cast<int32_t>(tile), static_cast<int32_t>(first), static_cast<int32_t>(last),
                step == begin ? 0 : 1};
    }
    HALFOPS_HD Piece piece_at(int64_t block, int64_t step) const {
        return is_split() ? piece_at(share_begin(block), share_begin(block + 1), step) : whole(block);
    }
    // All of a tile.
    HALFOPS_HD Piece whole(int64_t tile) const {
        return {static_cast<int32_t>(tile), 0, static_cast<int32_t>(steps), 0};
    }
    // f(piece) for all of a block's.
    template <class F>
    HALFOPS_HD void for_each_piece(int64_t block, const F& f) const {
        const bool split = is_split();
        const int64_t begin = split ? share_begin(block) : 0, end = split ? share_begin(block + 1) : steps;
        for (int64_t step = begin; step < end;) {
            const Piece piece = split ? piece_at(begin, end, step) : whole(block);
            f(piece);
            step += piece.last - piece.first;
        }
    }
    HALFOPS_HD bool is_whole(const Piece& piece) const { return piece.first == 0 && piece.last == steps; }
    HALFOPS_HD bool is_split() const { return blocks != tiles(); }
    // The blocks that have pieces of a tile, first and last.
    HALFOPS_HD int64_t first_of(int64_t tile) const { return block_of(tile * steps); }
    HALFOPS_HD int64_t last_of(int64_t tile) const { return block_of(tile * steps + steps - 1); }
    // Its slot for the piece of a tile: only the first of the tile's blocks can have had another tile before.
    HALFOPS_HD int slot_of(int64_t tile, int64_t block) const { return share_begin(block) >= tile * steps ? 0 : 1; }

    // In 32 bits, in which a division takes a third of the time.
    HALFOPS_HD TilePlace place_of(int32_t tile) const {
        const auto number = [](int64_t x) { return static_cast<uint32_t>(x); };
        uint32_t at = static_cast<uint32_t>(tile), in = 0, g = 0;
        if (batch > 1) {
            in = at / number(of_batch);
            at -= in * number(of_batch);
        }
        if (at >= number(of_group)) {
            g = at / number(of_group);
            at -= g * number(of_group);
        }
        const uint32_t above = g * number(group), below = number(tiles_m) - above;
        const uint32_t rows = below < number(group) ? below : number(group);
        const uint32_t column = at / rows;
        return {above + at - column * rows, column, in};
    }
};

// The group for which the blocks at work at one time read the fewest bytes: `at_work` tiles of m x n in group rows.
constexpr int64_t best_group(int64_t tiles_m, int64_t tiles_n, int64_t at_work, int m, int n) {
    int64_t best = 1, fewest = 0;
    for (int64_t group = 1; group <= 32 && group <= tiles_m; group *= 2) {
        const int64_t columns = smaller(tiles_n, ceil_div(at_work, group));
        const int64_t rows = smaller(tiles_m, group * ceil_div(at_work, group * tiles_n));
        const int64_t lines = rows * m + columns * n;
        if (group == 1 || lines < fewest) {
            best = group;
            fewest = lines;
        }
    }
    return best;
}

}  // namespace halfops::linear
