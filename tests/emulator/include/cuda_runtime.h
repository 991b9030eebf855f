// Stands in for the toolkit's <cuda_runtime.h> when a kernel source is compiled for the emulator: what the sources of
// csrc use of CUDA, one subject a file. Neither a toolkit nor a GPU is needed.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "emulator/atomics.h"
#include "emulator/barriers.h"
#include "emulator/builtins.h"
#include "emulator/intrinsics.h"
#include "emulator/memory.h"
#include "emulator/qualifiers.h"
#include "emulator/runtime_api.h"
#include "emulator/shared.h"
#include "emulator/vector_types.h"
#include "emulator/warp.h"
