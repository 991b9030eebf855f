// The GEMM in every tile for any architecture, for fp16; bf16 differs in the instruction and conversions alone, so it
// has two.
#include "entries/linear_far.h"
#include "entries/linear_problem.h"
#include "entries/linear_rows.h"

HALFOPS_LEFT_OUT(bf16, 0)
HALFOPS_LEFT_OUT(bf16, 1)
HALFOPS_LEFT_OUT(bf16, 2)
HALFOPS_LEFT_OUT(bf16, 3)
HALFOPS_LEFT_OUT(bf16, 5)
HALFOPS_LEFT_OUT(bf16, 6)
HALFOPS_LEFT_OUT(bf16, 7)
HALFOPS_NOT_FOR_HOPPER

const emulator::Entry gemm("gemm", linear_entry::gemm);
const emulator::Entry far_gemm("far_gemm", linear_entry::far_gemm);
