// The same for a tile that is copied through registers: both operands along K.
#include "entries/linear_problem.h"
#include "entries/linear_rows.h"

HALFOPS_NO_PORTABLE(bf16)
HALFOPS_NOT_FOR_HOPPER
HALFOPS_LEFT_OUT(f16, 0)
HALFOPS_LEFT_OUT(f16, 1)
HALFOPS_LEFT_OUT(f16, 2)
HALFOPS_LEFT_OUT(f16, 3)
HALFOPS_LEFT_OUT(f16, 4)
HALFOPS_LEFT_OUT(f16, 5)
HALFOPS_LEFT_OUT(f16, 6)
HALFOPS_LEFT_OUT(f16, 7)
HALFOPS_ONE_LAYOUT(f16, 8, k, k)

const emulator::Entry gemm("gemm", linear_entry::gemm);
