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

struct Elems {  // what a convolution multiplies, and how it sums it: elems
    using Input = elem;
    using Weight = elem;
    using Sum = Reg;
    static constexpr int TOGETHER = PAIR;  // inputs of a product
    INLINE Sum start(const float *bias) { return reg::load(bias); }
    INLINE Sum weights(const Weight *p) { return reg::weights(p); }
    INLINE Sum broadcast(const Input *p) { return reg::broadcast(p); }
    INLINE Sum dot(Sum a, Sum b, Sum c) { return reg::dot(a, b, c); }
    INLINE Reg finish(Sum sum, const float *, const float *) { return sum; }
};

#if defined(PHI_INT8)

struct Bytes {  // unsigned inputs, signed weights, sums in int32; a weight of an output is a whole number of its scale
    using Input = uint8_t;
    using Weight = int8_t;
    using Sum = __m512i;
    static constexpr int TOGETHER = 4;
    INLINE Sum start(const float *) { return _mm512_setzero_si512(); }
    INLINE Sum weights(const Weight *p) { return _mm512_loadu_si512(p); }
    INLINE Sum broadcast(const Input *p) {
        int32_t four;
        memcpy(&four, p, 4);
        return _mm512_set1_epi32(four);
    }
    INLINE Sum dot(Sum a, Sum b, Sum c) {
        asm("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));  // of the intrinsic GCC 12 makes two copies of each sum, and spills them
        return c;
    }
    INLINE Reg finish(Sum sum, const float *scale, const float *bias) { return reg::fma(_mm512_cvtepi32_ps(sum), reg::load(scale), reg::load(bias)); }
};
namespace reg {
INLINE void store(uint8_t *p, Reg v, Quantiser to) {
    const Reg scaled = fma(v, same(to.inverse), same(to.zero));
    _mm512_mask_cvtusepi32_storeu_epi8(p, 0xffff, _mm512_cvtps_epi32(most(scaled, same(0.f))));
}
}  // namespace reg

#endif

}  // namespace phi
