#include "linear/instance.cuh"

HALFOPS_LINEAR_ROW(bf16, 15)
