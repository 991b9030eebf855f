// Which of the table's rows a program has: each takes a second to compile. Behind what it includes, before the sources.
#pragma once

#include "linear/instance.cuh"

// A launcher of its own, in place of the one that instance.cuh has for all layouts.
#define HALFOPS_LAUNCHER(T, row)                                                                  \
    template <>                                                                                   \
    cudaError_t halfops::linear::launch_row<halfops::T, row>(                                     \
        [[maybe_unused]] const halfops::linear::GemmArguments& arguments, halfops::linear::Major, \
        halfops::linear::Major, [[maybe_unused]] cudaStream_t stream)

#define HALFOPS_LEFT_OUT(T, row) \
    HALFOPS_LAUNCHER(T, row) { return cudaErrorInvalidValue; }

#define HALFOPS_ONE_LAYOUT(T, row, a, b)                                                                       \
    HALFOPS_LAUNCHER(T, row) {                                                                                 \
        return launch_layout<halfops::T, row, halfops::linear::Major::a, halfops::linear::Major::b>(arguments, \
                                                                                                    stream);   \
    }

#define HALFOPS_NO_BF16       \
    HALFOPS_LEFT_OUT(bf16, 0) \
    HALFOPS_LEFT_OUT(bf16, 1) \
    HALFOPS_LEFT_OUT(bf16, 2) \
    HALFOPS_LEFT_OUT(bf16, 3) \
    HALFOPS_LEFT_OUT(bf16, 4) \
    HALFOPS_LEFT_OUT(bf16, 5) \
    HALFOPS_LEFT_OUT(bf16, 6) \
    HALFOPS_LEFT_OUT(bf16, 7) \
    HALFOPS_LEFT_OUT(bf16, 8)
