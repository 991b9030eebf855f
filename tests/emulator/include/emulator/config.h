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

// When an asynchronous copy happens: all moments from its start to the wait for it are legal.
enum class Completion : int32_t {
    eager,   // at once
    lazy,    // in the wait
    random,  // after a number of steps of any threads that is random over orders of magnitude, in the wait at the
             // latest
};

struct Config {
    Order order = Order::forward;
    uint32_t seed = 1;
    // Shared memory starts as NaN (all bits set), otherwise as zeros; so is the target of a copy that is on its way.
    int32_t poison = 1;
    Completion completion = Completion::lazy;
    // What the runtime API says of the device. Small, so that a launch that fills the device stays affordable.
    int32_t multiprocessors = 2;
    int32_t blocks_per_multiprocessor = 2;
    int32_t capability = 90;       // the compute capability times ten
    int32_t most_shared = 232448;  // dynamic shared memory that a block may have once its kernel asks for it
    int32_t compiled_for = 90;     // the architecture whose instructions kernels consist of, no newer than the device
};

Config& config();

}  // namespace emulator
