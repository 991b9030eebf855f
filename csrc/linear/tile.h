// An operand's tile in shared memory: lines of 16-byte chunks, exchanged so that no access meets another in a bank.
//
// A line is contiguous in global memory too: K runs along it (Major::k), or M or N does (Major::mn). The chunks of a
// line are permuted by exclusive-or with a number that changes from line to line: any eight consecutive lines have a
// chunk of the same index in eight different sixteenths of 128 bytes, which is what ldmatrix reads at a time.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "linear/operand.h"

namespace halfops::linear {

inline constexpr int kChunkBytes = 16, kChunkElements = 8;

template <int kLines_, int kChunks_>
struct SharedTile {
    static constexpr int kLines = kLines_, kChunks = kChunks_;
    static constexpr int kLineBytes = kChunks * kChunkBytes, kBytes = kLines * kLineBytes;
    static constexpr int kBankChunks = 8;  // of 128 bytes, all banks
    static constexpr int kLinesAcross = kChunks >= kBankChunks ? 1 : kBankChunks / kChunks;
    static constexpr int kMask = (kChunks >= kBankChunks ? kBankChunks : kChunks) - 1;
    static_assert((kChunks & (kChunks - 1)) == 0, "a power of two, or the exclusive-or leaves the line");

    static HALFOPS_HD constexpr int swizzle(int line) { return (line / kLinesAcross) & kMask; }
    static HALFOPS_HD constexpr int offset(int line, int chunk) {
        return line * kLineBytes + ((chunk ^ swizzle(line)) * kChunkBytes);
    }
};

// Do eight lines from `first` on have chunk `chunk` in eight different places?
template <class Tile>
constexpr bool is_conflict_free(int first, int chunk) {
    unsigned seen = 0;
    for (int line = first; line < first + 8; ++line) {
        seen |= 1u << (Tile::offset(line, chunk) / kChunkBytes % Tile::kBankChunks);
    }
    return seen == 0xffu;
}

template <class Tile>
constexpr bool is_conflict_free() {
    for (int first = 0; first + 8 <= Tile::kLines; first += 8) {
        for (int chunk = 0; chunk < Tile::kChunks; ++chunk) {
            if (!is_conflict_free<Tile>(first, chunk)) return false;
        }
    }
    return true;
}

// The tile of an operand with kExtent rows of M (or N) and kDepth of K.
template <Major kMajor, int kExtent, int kDepth>
struct TileOf {
    using Type = SharedTile<kExtent, kDepth / kChunkElements>;
};
template <int kExtent, int kDepth>
struct TileOf<Major::mn, kExtent, kDepth> {
    using Type = SharedTile<kDepth, kExtent / kChunkElements>;
};

}  // namespace halfops::linear
