// How the next launches run. The same configuration gives the same run.
#pragma once

#include <cstdint>

namespace emulator {

enum class Order : int32_t {
    forward,   // thread 0 as far as it can, then thread 1, ...; blocks ascending
    reverse,   // the last thread first; blocks descending
    random,    // any thread that can run, at every step; blocks shuffled
    priority,  // the most important warp that can run; the importance is random and changes now and then
};

struct Config {
    Order order = Order::forward;
    uint32_t seed = 1;
    int32_t poison = 1;  // shared memory starts as NaN (all bits set), otherwise as zeros
    // What the runtime API says of the device. Small, so that a launch that fills the device stays affordable.
    int32_t multiprocessors = 2;
    int32_t blocks_per_multiprocessor = 2;
};

Config& config();

}  // namespace emulator
