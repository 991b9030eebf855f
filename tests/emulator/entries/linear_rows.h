// Which of the table's rows a program has: each takes a second to compile. Behind what it includes, before the sources.
#pragma once

#include "linear/instance.cuh"

// A launcher of its own, in place of the one that instance.cuh has for all layouts.
#define HALFOPS_LAUNCHER(T, row)                                                                                     \
    template <>                                                                                                      \
    cudaError_t halfops::linear::launch_row<halfops::T, row>(                                                        \
        [[maybe_unused]] const halfops::linear::GemmArguments& arguments,                                            \
        [[maybe_unused]] const halfops::linear::BulkArguments& bulk, halfops::linear::Major, halfops::linear::Major, \
        [[maybe_unused]] unsigned blocks, [[maybe_unused]] cudaStream_t stream)

#define HALFOPS_LEFT_OUT(T, row) \
    HALFOPS_LAUNCHER(T, row) { return cudaErrorInvalidValue; }

#define HALFOPS_ONE_LAYOUT(T, row, a, b)                                                                             \
    HALFOPS_LAUNCHER(T, row) {                                                                                       \
        return launch_layout<halfops::T, row, halfops::linear::Major::a, halfops::linear::Major::b>(arguments, bulk, \
                                                                                                    blocks, stream); \
    }

// The rows of one dtype for any architecture, and those for sm_90a.
#define HALFOPS_NO_PORTABLE(T) \
    HALFOPS_LEFT_OUT(T, 0)     \
    HALFOPS_LEFT_OUT(T, 1)     \
    HALFOPS_LEFT_OUT(T, 2)     \
    HALFOPS_LEFT_OUT(T, 3)     \
    HALFOPS_LEFT_OUT(T, 4)     \
    HALFOPS_LEFT_OUT(T, 5)     \
    HALFOPS_LEFT_OUT(T, 6)     \
    HALFOPS_LEFT_OUT(T, 7)     \
    HALFOPS_LEFT_OUT(T, 8)
#define HALFOPS_NO_BULK(T)  \
    HALFOPS_LEFT_OUT(T, 9)  \
    HALFOPS_LEFT_OUT(T, 10) \
    HALFOPS_LEFT_OUT(T, 11) \
    HALFOPS_LEFT_OUT(T, 12) \
    HALFOPS_LEFT_OUT(T, 13) \
    HALFOPS_LEFT_OUT(T, 14) \
    HALFOPS_LEFT_OUT(T, 15)

// A program without those is what a binary without code for sm_90a is.
#define HALFOPS_NOT_FOR_HOPPER \
    HALFOPS_NO_BULK(f16)       \
    HALFOPS_NO_BULK(bf16)      \
    const int for_fewer_threads = emulator::most_threads_per_block = 32;
