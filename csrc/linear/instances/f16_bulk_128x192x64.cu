#include "linear/instance.cuh"

HALFOPS_LINEAR_ROW(f16, 15)
