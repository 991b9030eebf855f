// CUDA's qualifiers mean nothing to a host compiler. They can only be macros: most of them are no C++ attribute.
#pragma once

// Kernels and device functions may stand in headers, so they have to be inline here.
#define __global__ inline
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
// `__restrict__` is a word of g++ already.
