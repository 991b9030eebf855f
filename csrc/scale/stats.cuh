// Flag, sum of squares and zeros of a list of tensors in one read; with unscaling, in one read and write.
//
// A warp takes chunks of 4096 elements and leaves {sum of squares, zeros} of each; collective/pair_sums.cuh adds them
// up; stats_finish writes the rows and the total. The order is core/chunks.h's, so the bits are the CPU engine's.
#pragma once

#include "collective/lanes.cuh"
#include "collective/pair_sums.cuh"
#include "collective/shared.cuh"
#include "core/finite.h"
#include "scale/nonfinite.cuh"
#include "scale/scale.h"

namespace halfops::scale {

// What a lane adds in: fp16's squares are exact in float, and the 16 of a lane cannot overflow there.
template <class T>
struct LaneSum {
    using Type = double;
    // The product of two floats is exact in double, so the fused form rounds as x * x + sum does: once.
    __device__ __forceinline__ static double add_square(double sum, float x) {
        const double wide = x;
        return fma(wide, wide, sum);
    }
};
template <>
struct LaneSum<f16> {
    using Type = float;
    __device__ __forceinline__ static float add_square(float sum, float x) { return sum + x * x; }
};

template <class T, bool kUnscale>
struct ChunkStats {
    typename LaneSum<T>::Type slots[kPerThread] = {};
    int zeros = 0;

    // The element as it is stored after this pass.
    __device__ __forceinline__ T visit(T element, float inv_scale, int slot) {
        if constexpr (kUnscale) element = from_f32<T>(to_f32(element) * inv_scale);
        slots[slot] = LaneSum<T>::add_square(slots[slot], to_f32(element));
        constexpr uint32_t kMagnitude = sizeof(T) == 4 ? 0x7fffffffu : 0x7fffu;
        zeros += (bits_of_element(element) & kMagnitude) == 0 ? 1 : 0;
        return element;
    }
};

template <class T, bool kUnscale>
__device__ Pair chunk_stats(int64_t address, int64_t numel, int64_t chunk, float inv_scale, bool count_zeros) {
    T* data = reinterpret_cast<T*>(address);
    const Eights eights(chunk, numel, head_elements(data));
    data += chunk * kChunk;
    ChunkStats<T, kUnscale> stats;
    for (int base = lane_index(); eights.at(base) < eights.length; base += kWarpSize * kUnroll) {
        if (eights.are_whole(base, base + kWarpSize * (kUnroll - 1))) {
            Eight<T> loaded[kUnroll];
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) loaded[u] = Eight<T>::load(data + eights.at(base + u * kWarpSize));
#pragma unroll
            for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
                for (int j = 0; j < kEight; ++j) {
                    const T now = stats.visit(element_of<T>(loaded[u].bits(j)), inv_scale, j);
                    if constexpr (kUnscale) loaded[u].set_bits(j, bits_of_element(now));
                }
                if constexpr (kUnscale) loaded[u].store(data + eights.at(base + u * kWarpSize));
            }
        } else {
#pragma unroll 1
            for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
                for (int j = 0; j < kEight; ++j) {
                    const int place = eights.at(base + u * kWarpSize) + j;
                    if (eights.has(place)) {
                        const T now = stats.visit(data[place], inv_scale, j);
                        if constexpr (kUnscale) data[place] = now;
                    }
                }
            }
        }
    }
    double slots[kPerThread];
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) slots[j] = stats.slots[j];
    const double sum = sum_of_lanes(slots, eights.missing);
    return {sum, count_zeros ? static_cast<double>(warp_sum(stats.zeros)) : 0.0};
}

// Three blocks, or the compiler saves registers by loading each sixteen bytes only when their turn has come.
template <bool kUnscale>
__global__ void __launch_bounds__(kThreads, 3)
    stats_kernel(SpanTable list, const float* inv_scale, bool count_zeros, Pair* of_chunk) {
    const float factor = kUnscale ? *inv_scale : 1.0f;
    for_each_chunk(list.chunks, [&](int64_t t, int64_t chunk, int64_t c) {
        const int64_t numel = list.numel(t), address = list.addresses[t];
        Pair stats;
        switch (list.dtype(t)) {
            case DType::f16:
                stats = chunk_stats<f16, kUnscale>(address, numel, chunk, factor, count_zeros);
                break;
            case DType::bf16:
                stats = chunk_stats<bf16, kUnscale>(address, numel, chunk, factor, count_zeros);
                break;
            default:
                stats = chunk_stats<float, kUnscale>(address, numel, chunk, factor, count_zeros);
        }
        if (lane_index() == 0) of_chunk[c] = stats;
    });
}

// One block: the total is a sum of sums, which only few threads can share.
__global__ void __launch_bounds__(kThreads) stats_finish(const Pair* of_tensor, int64_t count, StatsOut out) {
    auto& trees = shared_array<StatsOut, double, kRadix>();
    const int64_t warps = blockDim.x / kWarpSize;
    double total = 0.0;  // of thread 0
    for (int64_t begin = 0; begin < count; begin += kRadix * kRadix) {
        const int64_t batch = smaller(kRadix, ceil_div(count - begin, kRadix));
        for (int64_t tree = threadIdx.x / kWarpSize; tree < batch; tree += warps) {
            const Pair* members = of_tensor + begin + tree * kRadix;
            const int64_t n = smaller(kRadix, of_tensor + count - members);
            const double sum = warp_members(n, [=](int64_t i) { return members[i].first; });
            if (lane_index() == 0) trees[tree] = sum;
        }
        __syncthreads();  // every tree of the batch is there before thread 0 adds them in order
        if (threadIdx.x == 0) {
            for (int64_t tree = 0; tree < batch; ++tree) total += trees[tree];
        }
        __syncthreads();  // and they have been added before the next batch overwrites them
    }
    if (threadIdx.x == 0) {
        *out.sum_of_squares = one_nan(total);
        *out.found_inf = is_finite(total) ? 0.0f : 1.0f;
    }
    for (int64_t t = threadIdx.x; t < count; t += blockDim.x) {
        const Pair sums = of_tensor[t];
        double* row = out.per_tensor + 3 * t;
        row[0] = one_nan(sums.first);
        row[1] = is_finite(sums.first) ? 0.0 : 1.0;
        row[2] = sums.second;
    }
}

__global__ void scale_update_kernel(LossScalePointers state, const float* found_inf, LossScalePolicy policy) {
    const LossScale before = {*state.scale, *state.growth_tracker, *state.hysteresis_tracker, *state.skipped_steps};
    const LossScale after = advance(before, *found_inf != 0.0f, policy);
    *state.scale = after.scale;
    *state.growth_tracker = after.growth_tracker;
    *state.hysteresis_tracker = after.hysteresis_tracker;
    *state.skipped_steps = after.skipped_steps;
}

}  // namespace halfops::scale
