// The level that this library is compiled for: setup.py defines one of these for each.
#pragma once
#if defined(PHI_AMX)
#include "amx.h"
#elif defined(PHI_AVX512_BF16)
#define PHI_BF16
#include "vector.h"
#elif defined(PHI_AVX512_VNNI)  // avx512_bf16 with 1x1 convolutions in int8
#define PHI_BF16
#define PHI_INT8
#include "vector.h"
#elif defined(PHI_AVX512) || defined(PHI_AVX2)
#include "vector.h"
#else
#error "define PHI_AMX, PHI_AVX512_VNNI, PHI_AVX512_BF16, PHI_AVX512 or PHI_AVX2"
#endif
