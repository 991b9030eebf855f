// How tensors are cut and sums are added up: the same pieces in the same order in every engine on every device, so
// that a sum has the same bits wherever it is taken, and a running order of threads changes nothing.
//
// A tensor is cut into chunks of kChunk elements. Element i of a chunk belongs to lane i % kLanes, and a lane adds its
// elements in order. Lanes of a chunk are added in a tree of neighbours; so are the chunks of a group of kRadix. What
// has any number of members (the groups of a tensor, the tensors of a list) is added kRadix members at a time in such
// a tree, and the trees' results in order. Missing members count as 0, which changes no sum of squares.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/shape.h"

namespace halfops {

inline constexpr int64_t kChunk = 4096;
inline constexpr int64_t kLanes = 256;
inline constexpr int64_t kRadix = 256;
static_assert(kLanes == kRadix, "one tree serves lanes and members");

// How much of a tree of kRadix has something in it: the least power of two that is not below count. Beyond, zeros would
// be added to zeros, and the result of that to the tree's sum.
HALFOPS_INLINE int64_t tree_width(int64_t count) {
    int64_t width = 1;
    while (width < count) width *= 2;
    return width;
}

// ((v0 + v1) + (v2 + v3)) + ... of `width` values, a power of two: they are used up.
HALFOPS_INLINE double add_tree(double* values, int64_t width = kRadix) {
    for (width /= 2; width > 0; width /= 2) {
        for (int64_t i = 0; i < width; ++i) values[i] = values[2 * i] + values[2 * i + 1];
    }
    return values[0];
}

// The sum of get(0) ... get(n - 1), in the order of members.
template <class Get>
HALFOPS_INLINE double add_members(int64_t n, const Get& get) {
    double total = 0.0;
    for (int64_t begin = 0; begin < n; begin += kRadix) {
        const int64_t count = smaller(kRadix, n - begin), width = tree_width(count);
        double values[kRadix];
        for (int64_t i = 0; i < width; ++i) values[i] = i < count ? get(begin + i) : 0.0;
        total += add_tree(values, width);
    }
    return total;
}

// The sum of a tensor's n chunks: of groups, then of what the groups have become.
template <class Get>
HALFOPS_INLINE double add_chunks(int64_t n, const Get& get) {
    return add_members(ceil_div(n, kRadix), [&](int64_t group) {
        const int64_t first = group * kRadix;
        return add_members(smaller(kRadix, n - first), [&](int64_t i) { return get(first + i); });
    });
}

}  // namespace halfops
