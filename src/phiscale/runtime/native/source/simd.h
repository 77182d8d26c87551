// 32 channels of one pixel at a time: half precision (one register) or fp32 (two), and the activations of both.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "engine.h"

#define INLINE static inline __attribute__((always_inline))

namespace phi {

using bf16 = uint16_t;
using F = __m512;   // 16 x fp32
using H = __m512h;  // 32 x fp16
struct F2 {         // 32 x fp32
    F lo, hi;
};

INLINE bf16 to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return bf16((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
INLINE F2 load2(const float *p) { return {_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16)}; }
INLINE void store2(float *p, F2 v) {
    _mm512_storeu_ps(p, v.lo);
    _mm512_storeu_ps(p + 16, v.hi);
}
INLINE F2 add(F2 a, F2 b) { return {_mm512_add_ps(a.lo, b.lo), _mm512_add_ps(a.hi, b.hi)}; }
INLINE F2 mul(F2 a, F2 b) { return {_mm512_mul_ps(a.lo, b.lo), _mm512_mul_ps(a.hi, b.hi)}; }
INLINE __m512i pack_bf16(F2 v) { return (__m512i)_mm512_cvtne2ps_pbh(v.hi, v.lo); }
INLINE F2 unpack_bf16(__m512i v) {
    __m512i lo = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(v)), hi = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(v, 1));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(lo, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(hi, 16))};
}

// ---- activations; NaN passes through each (max and min return their second operand where one is NaN) ----

// Exceptions are off (SAE) where an overflow is harmless, so that the overflow flag means what it says: see Overflow in network.cpp.
enum { QUIET = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };

INLINE H all(float f) { return _mm512_set1_ph((_Float16)f); }

// 1 + 2^t: 2^t = scalef(p(frac t), t), p a cubic fitted on [0, 1); its error (2e-4) is below half precision's
INLINE H one_plus_exp2(H t) {
    H f = _mm512_reduce_ph(t, 1);
    H p = _mm512_fmadd_ph(f, all(0.0790199f), all(0.2241264f));
    p = _mm512_fmadd_ph(p, f, all(0.6968386f));
    p = _mm512_fmadd_ph(p, f, all(0.9998119f));
    return _mm512_add_round_ph(_mm512_scalef_round_ph(p, t, QUIET), all(1.f), QUIET);
}
INLINE F one_plus_exp2(F t) {
    t = _mm512_max_ps(_mm512_set1_ps(-126.f), _mm512_min_ps(_mm512_set1_ps(126.f), t));
    F f = _mm512_reduce_ps(t, 1);
    F p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.00189511f), _mm512_set1_ps(0.00894621f));  // 2^f to 1e-7
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05586328f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24014077f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69315462f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.9999999f));
    return _mm512_add_ps(_mm512_scalef_ps(p, t), _mm512_set1_ps(1.f));
}
INLINE F sigmoid(F x) { return _mm512_div_ps(_mm512_set1_ps(1.f), one_plus_exp2(_mm512_mul_ps(x, _mm512_set1_ps(-1.44269504f)))); }

template <int ACT>
INLINE H act(H x) {
    if constexpr (ACT == PHI_SILU)
        return _mm512_mul_ph(x, _mm512_rcp_ph(one_plus_exp2(_mm512_mul_round_ph(x, all(-1.44269504f), QUIET))));
    if constexpr (ACT == PHI_RELU) return _mm512_max_ph(_mm512_setzero_ph(), x);
    if constexpr (ACT == PHI_RELU6) return _mm512_min_ph(all(6.f), _mm512_max_ph(_mm512_setzero_ph(), x));
    if constexpr (ACT == PHI_HARDSWISH) {
        H gate = _mm512_min_ph(all(6.f), _mm512_max_ph(_mm512_setzero_ph(), _mm512_add_ph(x, all(3.f))));
        return _mm512_mul_ph(x, _mm512_mul_ph(gate, all(1.f / 6.f)));
    }
    return x;
}
template <int ACT>
INLINE F act(F x) {
    if constexpr (ACT == PHI_SILU) return _mm512_mul_ps(x, sigmoid(x));
    if constexpr (ACT == PHI_RELU) return _mm512_max_ps(_mm512_setzero_ps(), x);
    if constexpr (ACT == PHI_RELU6) return _mm512_min_ps(_mm512_set1_ps(6.f), _mm512_max_ps(_mm512_setzero_ps(), x));
    if constexpr (ACT == PHI_HARDSWISH) {
        F gate = _mm512_min_ps(_mm512_set1_ps(6.f), _mm512_max_ps(_mm512_setzero_ps(), _mm512_add_ps(x, _mm512_set1_ps(3.f))));
        return _mm512_mul_ps(x, _mm512_mul_ps(gate, _mm512_set1_ps(1.f / 6.f)));
    }
    return x;
}
template <int ACT>
INLINE F2 act(F2 v) {
    return {act<ACT>(v.lo), act<ACT>(v.hi)};
}

// fn(constant): the activation as a compile-time number, so that the inner loops have no branch
template <int N>
struct Act {
    static constexpr int value = N;
};
template <class Fn>
INLINE void with_act(int kind, Fn fn) {
    switch (kind) {
        case PHI_SILU: return fn(Act<PHI_SILU>{});
        case PHI_RELU: return fn(Act<PHI_RELU>{});
        case PHI_RELU6: return fn(Act<PHI_RELU6>{});
        case PHI_HARDSWISH: return fn(Act<PHI_HARDSWISH>{});
        default: return fn(Act<PHI_NONE>{});
    }
}

// ---- the two precisions a depthwise convolution can run in; both store 2 bytes a channel ----

struct Half {  // fp16 in memory and in arithmetic
    using Vec = H;
    using Weight = _Float16;
    INLINE Vec from(F2 v) {
        __m256h lo = _mm512_cvtxps_ph(v.lo), hi = _mm512_cvtxps_ph(v.hi);
        return _mm512_castsi512_ph(_mm512_inserti64x4(_mm512_castsi256_si512(_mm256_castph_si256(lo)), _mm256_castph_si256(hi), 1));
    }
    INLINE F2 widen(Vec v) {
        __m256i hi = _mm512_extracti64x4_epi64(_mm512_castph_si512(v), 1);
        return {_mm512_cvtxph_ps(_mm512_castph512_ph256(v)), _mm512_cvtxph_ps(_mm256_castsi256_ph(hi))};
    }
    INLINE Vec load(const uint16_t *p) { return _mm512_loadu_ph(p); }
    INLINE void store(uint16_t *p, Vec v) { _mm512_storeu_ph(p, v); }
    INLINE Vec weight(const Weight *p) { return _mm512_loadu_ph(p); }
    INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ph(a, b, c); }
    INLINE Vec plus(Vec a, Vec b) { return _mm512_add_ph(a, b); }
    INLINE Vec zero() { return _mm512_setzero_ph(); }
};

struct Wide {  // bf16 in memory, fp32 in arithmetic
    using Vec = F2;
    using Weight = float;
    INLINE Vec from(F2 v) { return v; }
    INLINE F2 widen(Vec v) { return v; }
    INLINE Vec load(const uint16_t *p) { return unpack_bf16(_mm512_loadu_si512(p)); }
    INLINE void store(uint16_t *p, Vec v) { _mm512_storeu_si512(p, pack_bf16(v)); }
    INLINE Vec weight(const Weight *p) { return load2(p); }
    INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.lo, b.lo, c.lo), _mm512_fmadd_ps(a.hi, b.hi, c.hi)}; }
    INLINE Vec plus(Vec a, Vec b) { return add(a, b); }
    INLINE Vec zero() { return {_mm512_setzero_ps(), _mm512_setzero_ps()}; }
};

}  // namespace phi
