// The GEMM in the tiles that sanitizers look at: one with copies in flight, one of few rows, one that copies through
// registers.
#include "linear/rows.cuh"

#define HALFOPS_LEFT_OUT(T, row)                                                                               \
    template <>                                                                                                \
    cudaError_t halfops::linear::launch_row<halfops::T, row>(                                                  \
        const halfops::linear::GemmArguments&, halfops::linear::Major, halfops::linear::Major, cudaStream_t) { \
        return cudaErrorInvalidValue;                                                                          \
    }
HALFOPS_LEFT_OUT(bf16, 0)
HALFOPS_LEFT_OUT(bf16, 1)
HALFOPS_LEFT_OUT(bf16, 2)
HALFOPS_LEFT_OUT(bf16, 3)
HALFOPS_LEFT_OUT(bf16, 4)
HALFOPS_LEFT_OUT(bf16, 5)
HALFOPS_LEFT_OUT(bf16, 6)
HALFOPS_LEFT_OUT(bf16, 7)
HALFOPS_LEFT_OUT(bf16, 8)
HALFOPS_LEFT_OUT(f16, 0)
HALFOPS_LEFT_OUT(f16, 1)
HALFOPS_LEFT_OUT(f16, 2)
HALFOPS_LEFT_OUT(f16, 3)
HALFOPS_LEFT_OUT(f16, 5)
HALFOPS_LEFT_OUT(f16, 7)

#include "entries/linear_problem.h"
#include "linear/instance.cuh"

const emulator::Entry gemm("gemm", linear_entry::gemm);
