// The threads of a cluster that can run: one bit each.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "emulator/runtime_api.h"

namespace emulator {

inline constexpr unsigned kMostPlaces = kMostBlocksOfCluster * kMostThreads;

class ReadySet {
  public:
    void insert(unsigned index) {
        words_[index / 64] |= uint64_t{1} << index % 64;
        ++size_;
    }

    void erase(unsigned index) {
        words_[index / 64] &= ~(uint64_t{1} << index % 64);
        --size_;
    }

    unsigned size() const { return size_; }

    // The member with `rank` smaller ones; rank < size().
    unsigned at(unsigned rank) const {
        unsigned word = 0;
        while (rank >= static_cast<unsigned>(std::popcount(words_[word]))) {
            rank -= static_cast<unsigned>(std::popcount(words_[word]));
            ++word;
        }
        uint64_t bits = words_[word];
        for (; rank > 0; --rank) bits &= bits - 1;
        return word * 64 + static_cast<unsigned>(std::countr_zero(bits));
    }

    // How many members are smaller.
    unsigned rank_of(unsigned index) const {
        unsigned rank = 0;
        for (unsigned word = 0; word < index / 64; ++word) rank += static_cast<unsigned>(std::popcount(words_[word]));
        const uint64_t below = (uint64_t{1} << index % 64) - 1;
        return rank + static_cast<unsigned>(std::popcount(words_[index / 64] & below));
    }

    // Those of one warp, a bit each.
    uint32_t lanes(unsigned warp) const { return static_cast<uint32_t>(words_[warp / 2] >> 32 * (warp % 2)); }

  private:
    std::array<uint64_t, kMostPlaces / 64> words_{};
    unsigned size_ = 0;
};

}  // namespace emulator
