// The registers of the levels avx512, avx512_bf16 and avx2: 16 or 8 x fp32, and what the convolutions multiply.
#pragma once
#include "simd.h"

namespace phi {

#if defined(PHI_AVX2)

using Reg = __m256;
constexpr int LANES = 8;
constexpr int REGISTERS = 16;
namespace reg {
INLINE Reg load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, Reg v) { _mm256_storeu_ps(p, v); }
INLINE Reg same(float f) { return _mm256_set1_ps(f); }
INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
INLINE Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
INLINE Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Reg least(Reg a, Reg b) { return _mm256_min_ps(a, b); }  // b where one is NaN
INLINE Reg most(Reg a, Reg b) { return _mm256_max_ps(a, b); }
INLINE Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
// v * 2^n, n the low bits of `bits`
INLINE Reg scale(Reg v, Reg bits) {
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_castps_si256(bits), 23)));
}
}  // namespace reg

#else

using Reg = __m512;
constexpr int LANES = 16;
constexpr int REGISTERS = 32;
namespace reg {
INLINE Reg load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, Reg v) { _mm512_storeu_ps(p, v); }
INLINE Reg same(float f) { return _mm512_set1_ps(f); }
INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
INLINE Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
INLINE Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Reg least(Reg a, Reg b) { return _mm512_min_ps(a, b); }  // b where one is NaN
INLINE Reg most(Reg a, Reg b) { return _mm512_max_ps(a, b); }
INLINE Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
INLINE Reg reciprocal(Reg v) { return _mm512_rcp14_ps(v); }  // to 6.1e-5
// v * 2^n, n the low bits of `bits`
INLINE Reg scale(Reg v, Reg bits) {
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), _mm512_slli_epi32(_mm512_castps_si512(bits), 23)));
}
}  // namespace reg

#endif

// What a map holds, and the product that a convolution sums: PAIR inputs at a time, each pair with one register of outputs.
#if defined(PHI_BF16)

using elem = bf16;
constexpr int PAIR = 2;
namespace reg {
INLINE Reg load(const bf16 *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
INLINE void store(bf16 *p, Reg v) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v)); }
INLINE Reg weights(const bf16 *p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
INLINE Reg broadcast(const bf16 *p) {  // two inputs
    int32_t both;
    memcpy(&both, p, 4);
    return _mm512_castsi512_ps(_mm512_set1_epi32(both));
}
INLINE Reg dot(Reg a, Reg b, Reg c) { return _mm512_dpbf16_ps(c, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b)); }
}  // namespace reg
INLINE elem to_elem(float f) { return to_bf16(f); }

#else

using elem = float;
constexpr int PAIR = 1;
namespace reg {
INLINE Reg weights(const float *p) { return load(p); }
INLINE Reg broadcast(const float *p) { return same(*p); }
INLINE Reg dot(Reg a, Reg b, Reg c) { return fma(a, b, c); }
}  // namespace reg
INLINE elem to_elem(float f) { return f; }

#endif

}  // namespace phi
