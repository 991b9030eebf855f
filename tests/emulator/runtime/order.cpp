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
    if (order_ != Order::priority) return;
    for (unsigned warp = 0; warp < warps; ++warp) importance_.push_back(random_.below(kLevels));
}

unsigned ThreadOrder::next(const ReadySet& ready) {
    const unsigned count = ready.size();
    switch (order_) {
        case Order::forward: {
            const unsigned rank = ready.rank_of(next_);
            const unsigned chosen = ready.at(rank < count ? rank : 0);
            next_ = (chosen + 1) % kMostPlaces;
            return chosen;
        }
        case Order::reverse: {
            const unsigned rank = ready.rank_of(next_);
            next_ = ready.at(rank > 0 ? rank - 1 : count - 1);
            return next_;
        }
        case Order::random:
            return ready.at(random_.below(count));
        case Order::priority: {
            if (random_.below(kStepsPerChange) == 0) {
                importance_[random_.below(static_cast<unsigned>(importance_.size()))] = random_.below(kLevels);
            }
            // Any lane of it: of two that poll, one after the other has to have its turn.
            const unsigned first = most_important_warp(ready) * 32;
            const unsigned lanes = static_cast<unsigned>(std::popcount(ready.lanes(first / 32)));
            return ready.at(ready.rank_of(first) + random_.below(lanes));
        }
    }
    return ready.at(0);
}

unsigned ThreadOrder::most_important_warp(const ReadySet& ready) const {
    unsigned best = ready.at(0) / 32;
    for (unsigned warp = best + 1; warp < importance_.size(); ++warp) {
        if (ready.lanes(warp) != 0 && importance_[warp] > importance_[best]) best = warp;
    }
    return best;
}

}  // namespace emulator
