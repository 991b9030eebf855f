// A warp's fragments for mma.m16n8k16 out of shared memory: where each lane points ldmatrix.
//
// Sixteen of M by sixteen of K are four 8x8 matrices, one ldmatrix.x4; so are sixteen of N by sixteen of K, the
// fragments of two neighbouring n8 tiles. Lines along K are read as they are, lines along M or N transposed.
#pragma once

#include "collective/warp.cuh"
#include "linear/tile.h"
#include "ptx/ldmatrix.cuh"

namespace halfops::linear {

enum class Side : int { a, b };

template <class Tile, Side kSide, Major kMajor>
class Fragments {
  public:
    // extent: the warp's first row of M (or N) in the tile, a multiple of sixteen times its number of fragments.
    __device__ __forceinline__ explicit Fragments(int extent) {
        const int lane = lane_index();
        // The order of the four matrices in the registers: for A first both halves of M, then of K; for B first of K.
        // So where lines run along M in A, and along K in B, the second matrix is the second chunk of a line.
        constexpr bool kSecondIsChunk = (kSide == Side::a) == (kMajor == Major::mn);
        const int line = kSecondIsChunk ? lane % 8 + lane / 16 * 8 : lane % 16;
        const int chunk = kSecondIsChunk ? lane / 8 % 2 : lane / 16;
        const int first_line = kMajor == Major::k ? extent : 0, first_chunk = kMajor == Major::k ? 0 : extent / 8;
        line_ = (first_line + line) * Tile::kLineBytes;
        chunk_ = ((first_chunk + chunk) ^ Tile::swizzle(line)) * kChunkBytes;
    }

    // Sixteen rows (or columns) number i of the warp, at the sixteen of K number `step` of the stage.
    __device__ __forceinline__ void load(uint32_t (&fragment)[4], const char* tile, int i, int step) const {
        // Sixteen lines further the permutation is the same; two chunks further the place differs in higher bits.
        const int lines = kMajor == Major::k ? i : step, chunks = kMajor == Major::k ? step : i;
        const char* at = tile + line_ + lines * 16 * Tile::kLineBytes + (chunk_ ^ (chunks * 2 * kChunkBytes));
        if constexpr (kMajor == Major::k) {
            ptx::ldmatrix_x4(fragment, at);
        } else {
            ptx::ldmatrix_x4_trans(fragment, at);
        }
    }

  private:
    static_assert(is_conflict_free<Tile>(), "ldmatrix reads eight lines at a time");
    int line_, chunk_;
};

}  // namespace halfops::linear
