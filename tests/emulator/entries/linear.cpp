// The GEMM in every tile, for fp16; bf16 differs in the instruction and conversions alone, so it has two.
#include "linear/rows.cuh"

#define HALFOPS_LEFT_OUT(row)                                                                                  \
    template <>                                                                                                \
    cudaError_t halfops::linear::launch_row<halfops::bf16, row>(                                               \
        const halfops::linear::GemmArguments&, halfops::linear::Major, halfops::linear::Major, cudaStream_t) { \
        return cudaErrorInvalidValue;                                                                          \
    }
HALFOPS_LEFT_OUT(0)
HALFOPS_LEFT_OUT(1)
HALFOPS_LEFT_OUT(2)
HALFOPS_LEFT_OUT(3)
HALFOPS_LEFT_OUT(5)
HALFOPS_LEFT_OUT(6)
HALFOPS_LEFT_OUT(7)

#include "entries/linear_problem.h"
#include "linear/instance.cuh"

const emulator::Entry gemm("gemm", linear_entry::gemm);
