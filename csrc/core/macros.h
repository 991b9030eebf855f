// Words that every other file uses: where a function may run, and when not to call it out of line.
#pragma once

// A formula: compiled for host and device, and always inlined. On the host that also keeps a copy which
// was compiled for AVX-512 from being the one the linker picks for the portable variant (see variant.h).
#if defined(__CUDACC__)
#define HALFOPS_HD __host__ __device__ __forceinline__
#else
#define HALFOPS_HD inline __attribute__((always_inline))
#endif

#define HALFOPS_INLINE inline __attribute__((always_inline))
