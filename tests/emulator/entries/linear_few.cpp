// The GEMM in the tiles that sanitizers look at: one with copies in flight, one of few rows, one that copies through
// registers.
#include "entries/linear_problem.h"
#include "entries/linear_rows.h"

HALFOPS_NO_PORTABLE(bf16)
HALFOPS_NOT_FOR_HOPPER
HALFOPS_LEFT_OUT(f16, 0)
HALFOPS_LEFT_OUT(f16, 1)
HALFOPS_LEFT_OUT(f16, 2)
HALFOPS_LEFT_OUT(f16, 3)
HALFOPS_LEFT_OUT(f16, 5)
HALFOPS_LEFT_OUT(f16, 7)

const emulator::Entry gemm("gemm", linear_entry::gemm);
