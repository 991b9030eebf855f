// Which chunks of an operand's tile a thread copies, and where they come from.
//
// Threads take neighbouring chunks of a line, then the next lines; so a thread's chunks are one column of the tile,
// kStride lines apart, and one address with one step finds them all.
#pragma once

#include "core/shape.h"
#include "linear/operand.h"
#include "linear/tile.h"

namespace halfops::linear {

// kSideBySide: a line's elements are neighbours in memory.
template <class Tile, Major kMajor, int kThreads, bool kSideBySide>
class Lines {
  public:
    static constexpr int kStride = kThreads / Tile::kChunks;  // lines from one to the next
    static constexpr int kCount = (Tile::kLines + kStride - 1) / kStride;
    static constexpr int kDepth = kMajor == Major::k ? Tile::kChunks * kChunkElements : Tile::kLines;
    static constexpr int kExtent = kMajor == Major::k ? Tile::kLines : Tile::kChunks * kChunkElements;
    static_assert(kThreads % Tile::kChunks == 0 && kStride > 0, "whole lines at a time");

    __device__ __forceinline__ explicit Lines(int thread)
        : line_(thread / Tile::kChunks), chunk_(thread % Tile::kChunks) {}

    // Begins at element `k` of K of one product's operand (or of two, whose columns alternate eight by eight), at row
    // `first` of M or N, of which there are `extent`.
    __device__ __forceinline__ void begin(const Operand* operands, bool alternate, int64_t offset, int64_t first,
                                          int64_t extent, int64_t k) {
        const int mn = kMajor == Major::k ? line_ : chunk_ * kChunkElements;
        const int64_t at = first + (alternate ? mn / (2 * kChunkElements) * kChunkElements + mn % kChunkElements : mn);
        const Operand& operand = operands[alternate ? which() : 0];
        const int64_t line = kMajor == Major::k ? operand.mn_stride : operand.k_stride;
        step_ = kMajor == Major::k && alternate ? kStride / 2 : kStride;
        extent_ = static_cast<int>(larger(0, smaller(kExtent, extent - at)));
        k += kMajor == Major::k ? chunk_ * kChunkElements : line_;
        from_ = static_cast<const char*>(operand.data) +
                (offset + at * operand.mn_stride + k * operand.k_stride) * kElementBytes;
        line_bytes_ = line * step_ * kElementBytes;
        if constexpr (kMajor == Major::k) {
            present_ = 0;
#pragma unroll
            for (int i = 0; i < kCount; ++i) present_ |= static_cast<unsigned>(i * step_ < extent_) << i;
        } else {
            present_ = static_cast<unsigned>(extent_ < kChunkElements ? extent_ : kChunkElements);
        }
        if constexpr (!kSideBySide) stage_bytes_ = operand.k_stride * kDepth * kElementBytes;
    }
    __device__ __forceinline__ void advance() {
        if constexpr (!kSideBySide) {
            from_ += stage_bytes_;
        } else if constexpr (kMajor == Major::k) {
            from_ += kDepth * kElementBytes;
        } else {
            from_ += kCount * line_bytes_;
        }
    }

    // Which of two alternating operands this thread's chunks belong to.
    __device__ __forceinline__ int which() const { return (kMajor == Major::k ? line_ / kChunkElements : chunk_) % 2; }

    // Line i of this thread: whether the tile has it, its place, its source, and how many of its elements exist: in a
    // stage that K fills, or where `depth` elements of K are left.
    __device__ __forceinline__ bool has(int i) const {
        return Tile::kLines % kStride == 0 || line_ + i * kStride < Tile::kLines;
    }
    __device__ __forceinline__ int offset(int i) const { return Tile::offset(line_ + i * kStride, chunk_); }
    __device__ __forceinline__ const char* source(int i) const { return from_ + i * line_bytes_; }
    __device__ __forceinline__ int elements(int i) const {
        if constexpr (kMajor == Major::k) return (present_ >> i & 1u) != 0 ? kChunkElements : 0;
        return static_cast<int>(present_);
    }
    __device__ __forceinline__ int elements(int i, int depth) const {
        const int lines = kMajor == Major::k ? extent_ : depth - line_;
        const int along = kMajor == Major::k ? depth - chunk_ * kChunkElements : extent_;
        if (i * step_ >= lines || along <= 0) return 0;
        return along < kChunkElements ? along : kChunkElements;
    }

  private:
    static constexpr int kElementBytes = 2;
    int line_, chunk_, step_;
    int extent_;  // rows from the thread's first on, of which a tile has at most kExtent
    // Where K fills the stage: a bit for each line that is there, or how many elements every line has.
    unsigned present_;
    int64_t line_bytes_, stage_bytes_;
    const char* from_;
};

}  // namespace halfops::linear
