// In which order blocks run, and which of the threads that can run is next.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "emulator/config.h"
#include "runtime/ready_set.h"

namespace emulator {

class Random {
  public:
    void seed(uint32_t seed) { engine_.seed(seed); }
    unsigned below(unsigned bound) { return engine_() % bound; }
    std::mt19937& engine() { return engine_; }

  private:
    std::mt19937 engine_;
};

std::vector<unsigned> block_order(Order order, unsigned blocks, Random& random);

class ThreadOrder {
  public:
    ThreadOrder(Order order, unsigned warps, Random& random);
    unsigned next(const ReadySet& ready);

  private:
    unsigned most_important_warp(const ReadySet& ready) const;

    Order order_;
    Random& random_;
    // Order::forward and reverse: where to look for the next thread.
    unsigned next_ = 0;
    // Order::priority: one a warp.
    std::vector<unsigned> importance_;
};

}  // namespace emulator
