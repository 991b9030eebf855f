// Activations, gates and their gradients: one read of every operand, one write of every result.
//
// A warp takes tiles of some hundred elements, a thread of it eight neighbours in 16-byte accesses. The ends of the
// arrays, and arrays without a common alignment, go element by element.
#pragma once

#include "collective/vector.cuh"
#include "collective/warp.cuh"
#include "math/activation.h"

namespace halfops::pointwise {

inline constexpr unsigned kThreads = 256;

// The operations: values in, values out.
template <class A>
struct Activate {
    static constexpr int kIns = 1, kOuts = 1;
    __device__ __forceinline__ static void apply(const float (&in)[kIns], float (&out)[kOuts]) {
        out[0] = A::value(in[0]);
    }
};

template <class A>
struct ActivateBackward {
    static constexpr int kIns = 2, kOuts = 1;  // dy, z
    __device__ __forceinline__ static void apply(const float (&in)[kIns], float (&out)[kOuts]) {
        out[0] = activation_gradient(A{}, in[0], in[1]);
    }
};

template <class A>
struct Gate {
    static constexpr int kIns = 2, kOuts = 1;  // gate, up
    __device__ __forceinline__ static void apply(const float (&in)[kIns], float (&out)[kOuts]) {
        out[0] = Gated<A>::value(in[0], in[1]);
    }
};

template <class A>
struct GateBackward {
    static constexpr int kIns = 3, kOuts = 2;  // dh, gate, up; d_gate, d_up
    __device__ __forceinline__ static void apply(const float (&in)[kIns], float (&out)[kOuts]) {
        out[0] = Gated<A>::gate_gradient(in[0], in[1], in[2]);
        out[1] = Gated<A>::up_gradient(in[0], in[1]);
    }
};

template <class Op, class T>
struct Operands {
    const T* in[Op::kIns];
    T* out[Op::kOuts];
};

// Eights of a thread at a time: at least two loads of 16 bytes are in flight.
template <class Op, class T>
inline constexpr int kUnroll = Op::kIns * Eight<T>::kVectors == 1 ? 2 : 1;

// A warp's share of one round.
template <class Op, class T>
inline constexpr int64_t kTile = kUnroll<Op, T> * kWarpSize * kEight;

template <class Op, class T>
__device__ __forceinline__ void whole_tile(const Operands<Op, T>& operands, int64_t first) {
    constexpr int kTogether = kUnroll<Op, T>;
    Eight<T> in[kTogether][Op::kIns];
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
        const int64_t at = first + (u * kWarpSize + lane_index()) * kEight;
#pragma unroll
        for (int k = 0; k < Op::kIns; ++k) in[u][k] = Eight<T>::load(operands.in[k] + at);
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
        Eight<T> out[Op::kOuts] = {};
#pragma unroll
        for (int j = 0; j < kEight; ++j) {
            float x[Op::kIns], y[Op::kOuts];
#pragma unroll
            for (int k = 0; k < Op::kIns; ++k) x[k] = to_f32(element_of<T>(in[u][k].bits(j)));
            Op::apply(x, y);
#pragma unroll
            for (int k = 0; k < Op::kOuts; ++k) out[k].set_bits(j, bits_of_element(from_f32<T>(y[k])));
        }
        const int64_t at = first + (u * kWarpSize + lane_index()) * kEight;
#pragma unroll
        for (int k = 0; k < Op::kOuts; ++k) out[k].store(operands.out[k] + at);
    }
}

template <class Op, class T>
__device__ __forceinline__ void one_element(const Operands<Op, T>& operands, int64_t at) {
    float x[Op::kIns], y[Op::kOuts];
#pragma unroll
    for (int k = 0; k < Op::kIns; ++k) x[k] = to_f32(operands.in[k][at]);
    Op::apply(x, y);
#pragma unroll
    for (int k = 0; k < Op::kOuts; ++k) operands.out[k][at] = from_f32<T>(y[k]);
}

// missing: what the first tile lacks at its front, so that all others begin at a multiple of 16 bytes. aligned: whether
// they do so in every array.
template <class Op, class T>
__global__ void __launch_bounds__(kThreads, 4)
    elementwise_kernel(Operands<Op, T> operands, int64_t n, int missing, bool aligned) {
    constexpr int64_t kLength = kTile<Op, T>;
    for (int64_t first = warp_in_grid() * kLength - missing; first < n; first += warps_in_grid() * kLength) {
        if (aligned && first >= 0 && first + kLength <= n) {
            whole_tile<Op, T>(operands, first);
        } else {
            const int64_t end = smaller(n, first + kLength);
#pragma unroll 1
            for (int64_t at = first + lane_index(); at < end; at += kWarpSize) {
                if (at >= 0) one_element<Op, T>(operands, at);
            }
        }
    }
}

}  // namespace halfops::pointwise
