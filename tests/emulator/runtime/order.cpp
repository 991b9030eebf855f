#include "runtime/order.h"

#include <algorithm>
#include <numeric>

namespace emulator {

namespace {

// Steps between two changes of importance, on average: few enough that a block of some warps sees several.
constexpr unsigned kStepsPerChange = 256;
constexpr unsigned kLevels = 1u << 16;

}  // namespace

std::vector<unsigned> block_order(Order order, unsigned blocks, Random& random) {
    std::vector<unsigned> indices(blocks);
    std::iota(indices.begin(), indices.end(), 0u);
    if (order == Order::reverse) std::reverse(indices.begin(), indices.end());
    if (order == Order::random || order == Order::priority) {
        std::shuffle(indices.begin(), indices.end(), random.engine());
    }
    return indices;
}

ThreadOrder::ThreadOrder(Order order, unsigned warps, Random& random) : order_(order), random_(random) {
    if (order_ == Order::reverse) last_ = kMostThreads - 1;
    if (order_ != Order::priority) return;
    for (unsigned warp = 0; warp < warps; ++warp) importance_.push_back(random_.below(kLevels));
    high_lanes_first_ = random_.below(2) == 1;
}

unsigned ThreadOrder::next(const ReadySet& ready) {
    const unsigned count = ready.size();
    switch (order_) {
        case Order::forward: {
            // The one that ran last if it still can, otherwise the next one up, around the end.
            const unsigned rank = ready.rank_of(last_);
            last_ = ready.at(rank < count ? rank : 0);
            return last_;
        }
        case Order::reverse: {
            const unsigned rank = ready.rank_of(last_);
            last_ = ready.at(rank > 0 ? rank - 1 : count - 1);
            return last_;
        }
        case Order::random:
            return ready.at(random_.below(count));
        case Order::priority:
            if (random_.below(kStepsPerChange) == 0) {
                importance_[random_.below(static_cast<unsigned>(importance_.size()))] = random_.below(kLevels);
            }
            return most_important(ready);
    }
    return ready.at(0);
}

unsigned ThreadOrder::most_important(const ReadySet& ready) const {
    unsigned best = ready.at(0);
    for (unsigned rank = 1; rank < ready.size(); ++rank) {
        const unsigned candidate = ready.at(rank);
        const unsigned level = importance_[candidate / 32];
        const unsigned best_level = importance_[best / 32];
        const bool later_lane = high_lanes_first_ && candidate / 32 == best / 32;
        if (level > best_level || later_lane) best = candidate;
    }
    return best;
}

}  // namespace emulator
