// Shared memory moves 128 bytes at a time: eight lanes with 16 bytes each, if no two of them want different rows of one
// bank. Banks are 16 bytes wide here, four of the hardware's.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

namespace emulator {

inline constexpr unsigned kLanesOfPhase = 8;

// The 16-byte accesses of up to eight lanes.
class Phase {
  public:
    // Whether this access needs one wavefront more than those before. Two lanes at one address share it.
    bool conflicts(const void* memory) {
        const uintptr_t chunk = reinterpret_cast<uintptr_t>(memory) / 16;
        if (std::find(seen_.begin(), seen_.end(), chunk) != seen_.end()) return false;
        seen_.push_back(chunk);
        const unsigned rows = ++rows_of_bank_[chunk % rows_of_bank_.size()];
        if (rows <= wavefronts_) return false;
        wavefronts_ = rows;
        return rows > 1;
    }

  private:
    std::vector<uintptr_t> seen_;
    std::array<unsigned, 8> rows_of_bank_{};
    unsigned wavefronts_ = 0;
};

// Lanes start copies one by one: the n-th copies that eight neighbours start at one place in the source are taken to
// be one phase.
class CopyPhases {
  public:
    bool conflicts(unsigned lane, unsigned line, unsigned column, const void* memory) {
        const unsigned nth = counts_[{lane, line, column}]++;
        return phases_[{lane / kLanesOfPhase, line, column, nth}].conflicts(memory);
    }

  private:
    std::map<std::tuple<unsigned, unsigned, unsigned>, unsigned> counts_;
    std::map<std::tuple<unsigned, unsigned, unsigned, unsigned>, Phase> phases_;
};

}  // namespace emulator
