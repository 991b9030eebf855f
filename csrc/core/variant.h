// How one engine source becomes three: a .cpp of a few lines defines one of HALFOPS_VARIANT_AVX512, _AVX2, _PORTABLE,
// includes this header FIRST, then the engine's .inl.h.
//
// Everything of ours between here and the end of that .cpp lives in namespace halfops::HALFOPS_VARIANT or is a
// HALFOPS_HD formula, because the linker keeps only one copy of an inline function: were it the AVX-512 copy, an old
// CPU would stop at an illegal instruction. For the same reason engines call no std:: templates, and the std headers
// that they need are included here, before the target changes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "core/macros.h"
#include "core/parallel.h"
#include "core/shape.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(HALFOPS_VARIANT_AVX512)
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
#define HALFOPS_VARIANT avx512
#elif defined(HALFOPS_VARIANT_AVX2)
#pragma GCC target("avx2,f16c")
#define HALFOPS_VARIANT avx2
#elif defined(HALFOPS_VARIANT_PORTABLE)
#define HALFOPS_VARIANT portable
#else
#error "define HALFOPS_VARIANT_AVX512, _AVX2 or _PORTABLE before including core/variant.h"
#endif
