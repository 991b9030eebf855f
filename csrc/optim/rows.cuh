// What the optimizer's kernels know of one tensor, and of one step of it.
#pragma once

#include <cstdint>

#include "math/update/all.h"

namespace halfops::optim {

// Words of a plan. Addresses as integers: a row is written on the host and read on the device.
struct ParamRow {
    int64_t weight, master, states[update::kMaxStates], ema;  // addresses; 0: there is none
    int64_t numel;
    int64_t index;  // in the list, where its gradient and its step count are
    int64_t hyper;  // its row of hyper-parameters
    int64_t key;    // of stochastic rounding
    int64_t head;   // elements before the first at which all arrays are 16-byte aligned; kNoHead: nowhere
};
inline constexpr int64_t kRowWords = sizeof(ParamRow) / sizeof(int64_t);
inline constexpr int64_t kNoHead = -1;

// The scalars of one tensor's step, computed once.
template <class Rule>
struct alignas(16) Prepared {
    typename Rule::Scalars scalars;
    uint32_t step;  // the count that stochastic rounding is keyed by
};

}  // namespace halfops::optim
