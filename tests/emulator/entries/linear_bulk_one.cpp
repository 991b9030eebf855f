// One tile of a cluster in one layout: A along K, B along N. Planted bugs compile it again and again.
#include "entries/linear_problem.h"
#include "entries/linear_rows.h"

HALFOPS_NO_PORTABLE(f16)
HALFOPS_NO_PORTABLE(bf16)
HALFOPS_NO_BULK(bf16)
HALFOPS_ONE_LAYOUT(f16, 9, k, mn)
HALFOPS_LEFT_OUT(f16, 10)
HALFOPS_LEFT_OUT(f16, 11)
HALFOPS_LEFT_OUT(f16, 12)
HALFOPS_LEFT_OUT(f16, 13)
HALFOPS_LEFT_OUT(f16, 14)
HALFOPS_LEFT_OUT(f16, 15)

const emulator::Entry gemm("gemm", linear_entry::gemm);
