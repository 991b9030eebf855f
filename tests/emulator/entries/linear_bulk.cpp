// The GEMM in tiles for sm_90a: warpgroups that share a tile and such that have one each, with a cluster and without.
#include "entries/linear_problem.h"
#include "entries/linear_rows.h"

HALFOPS_NO_PORTABLE(f16)
HALFOPS_NO_PORTABLE(bf16)
HALFOPS_LEFT_OUT(f16, 10)
HALFOPS_LEFT_OUT(f16, 11)
HALFOPS_LEFT_OUT(bf16, 9)
HALFOPS_LEFT_OUT(bf16, 10)
HALFOPS_LEFT_OUT(bf16, 11)
HALFOPS_LEFT_OUT(bf16, 12)
HALFOPS_LEFT_OUT(bf16, 13)
HALFOPS_LEFT_OUT(bf16, 15)

const emulator::Entry gemm("gemm", linear_entry::gemm);
