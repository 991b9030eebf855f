// Threads on the host, borrowed from whoever calls: binding/ lends torch's pool, tests lend a plain loop.
//
// body(begin, end) gets disjoint ranges that cover [0, n). How many and which is the lender's choice, so nothing
// that is computed may depend on it: sums go into one slot per chunk of fixed size and are added up in order.
#pragma once

#include <cstdint>

namespace halfops {

struct Parallel {
    using Body = void (*)(int64_t begin, int64_t end, void* context);
    void (*run)(int64_t n, int64_t grain, Body body, void* context);

    template <class F>
    void operator()(int64_t n, int64_t grain, const F& f) const {
        if (n <= 0) return;
        run(
            n, grain, [](int64_t begin, int64_t end, void* context) { (*static_cast<const F*>(context))(begin, end); },
            const_cast<void*>(static_cast<const void*>(&f)));
    }
};

inline void run_serially(int64_t n, int64_t /*grain*/, Parallel::Body body, void* context) { body(0, n, context); }

inline Parallel serial() { return {&run_serially}; }

}  // namespace halfops
