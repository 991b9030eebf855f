// Operands that the copy engine cannot address, copied to lines that it can: side by side, multiples of 16 bytes apart.
//
// A copy costs twice the operand's bytes, once; a product reads it again and again.
#pragma once

#include "collective/vector.cuh"
#include "collective/warp.cuh"

namespace halfops::linear {

struct PackArguments {
    const uint16_t* from;
    uint32_t* to;
    int64_t length, lines, batch;  // elements of a line, lines of an operand
    int64_t stride, line_stride;   // elements from one to the next
    const int64_t* offsets;        // of a batch's operands, or null
    int64_t step;                  // from one to the next then
    int64_t pitch;                 // elements from one line to the next in the copy: even

    __device__ __forceinline__ const uint16_t* line(int64_t i) const {
        const int64_t operand = i / lines, first = offsets != nullptr ? offsets[operand] : operand * step;
        return from + first + (i - operand * lines) * line_stride;
    }
};

inline constexpr unsigned kPackThreads = 256;

// A line a warp, two elements a lane.
static __global__ void __launch_bounds__(kPackThreads) pack_kernel(const __grid_constant__ PackArguments a) {
    for (int64_t i = warp_in_grid(); i < a.lines * a.batch; i += warps_in_grid()) {
        const uint16_t* from = in_global_memory(a.line(i));
        uint32_t* to = in_global_memory(a.to) + i * (a.pitch / 2);
#pragma unroll 4
        for (int64_t pair = lane_index(); pair < a.pitch / 2; pair += kWarpSize) {
            const int64_t at = 2 * pair;
            const uint32_t low = at < a.length ? from[at * a.stride] : 0;
            const uint32_t high = at + 1 < a.length ? from[(at + 1) * a.stride] : 0;
            to[pair] = low | high << 16;
        }
    }
}

}  // namespace halfops::linear
