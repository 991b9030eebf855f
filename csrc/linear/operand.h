// What a kernel is told of its operands.
#pragma once

#include <cstdint>

namespace halfops::linear {

// What lines of neighbouring elements in memory run along.
enum class Major : int { k, mn };

// A matrix as a loader sees it, of 16-bit elements: along M (or N) and along K. Strides count elements.
struct Operand {
    const void* data;
    int64_t mn_stride, k_stride;
};

// Both operands of up to two products, and their batches.
struct Operands {
    Operand a[2], b[2];
    int64_t m, n, k;  // n: columns of one product
    int products;  // 2 are added; but gated, there is one whose columns are b[0]'s and b[1]'s, eight by eight in turn
    bool gated;
    // Operand i of a batch begins offsets[i] elements behind data, or where there is no table, i steps.
    const int64_t *a_offsets, *b_offsets;
    int64_t a_step, b_step;
    // No byte outside of these is read, where a loader reads 16 bytes to use some of them.
    uint64_t a_begin[2], a_end[2], b_begin[2], b_end[2];
};

}  // namespace halfops::linear
