// AMX tiles and AVX-512 FP16 in plain AVX-512, slow and exact enough to test level amx where no such processor is:
// g++ -include tools/amx_emulated.h ... -DPHI_AMX (tools/native_sanitize.py --emulate-amx). Half precision is computed in fp32 and rounded,
// which sets the overflow flag as the real instructions do.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define EMULATED static inline __attribute__((always_inline))

namespace emulated {

struct H {
    __m512i v;
};
struct H256 {
    __m256i v;
};
struct F {
    __m512 lo, hi;
};
EMULATED F wide(H a) { return {_mm512_cvtph_ps(_mm512_castsi512_si256(a.v)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(a.v, 1))}; }
EMULATED H join(__m256i lo, __m256i hi) { return {_mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1)}; }
EMULATED H loud(F f) { return join(_mm512_cvtps_ph(f.lo, 0), _mm512_cvtps_ph(f.hi, 0)); }
// What rounds to infinity becomes it before the conversion, which then has nothing to report (GCC leaves out its {sae}).
EMULATED __m512 unbounded(__m512 f) {
    const __mmask16 beyond = _mm512_cmp_ps_mask(_mm512_abs_ps(f), _mm512_set1_ps(65520), _CMP_GE_OQ);
    return _mm512_mask_or_ps(f, beyond, _mm512_and_ps(f, _mm512_set1_ps(-0.f)), _mm512_set1_ps(__builtin_inff()));
}
EMULATED H quiet(F f) { return loud({unbounded(f.lo), unbounded(f.hi)}); }
#define EACH(name, end, expression)                                        \
    EMULATED H name(H a, H b) {                                            \
        const F x = wide(a), y = wide(b);                                  \
        auto one = [](__m512 p, __m512 q) { return expression; };          \
        return end({one(x.lo, y.lo), one(x.hi, y.hi)});                    \
    }
EACH(add, loud, _mm512_add_ps(p, q))
EACH(mul, loud, _mm512_mul_ps(p, q))
EACH(least, loud, _mm512_min_ps(p, q))
EACH(most, loud, _mm512_max_ps(p, q))
EACH(add_quiet, quiet, _mm512_add_ps(p, q))
EACH(mul_quiet, quiet, _mm512_mul_ps(p, q))
EACH(scalef_quiet, quiet, _mm512_scalef_round_ps(p, q, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#undef EACH
EMULATED H fma(H a, H b, H c) {
    const F x = wide(a), y = wide(b), z = wide(c);
    return loud({_mm512_fmadd_ps(x.lo, y.lo, z.lo), _mm512_fmadd_ps(x.hi, y.hi, z.hi)});
}
EMULATED H fraction(H a) {
    const F x = wide(a);
    return loud({_mm512_reduce_ps(x.lo, 1), _mm512_reduce_ps(x.hi, 1)});
}
EMULATED H reciprocal(H a) {
    const F x = wide(a);
    const __m512 one = _mm512_set1_ps(1.f);
    return quiet({_mm512_div_ps(one, x.lo), _mm512_div_ps(one, x.hi)});
}
EMULATED H same(_Float16 f) {
    int16_t bits;
    memcpy(&bits, &f, 2);
    return {_mm512_set1_epi16(bits)};
}

static thread_local struct Tiles {
    alignas(64) uint8_t row[8][16][64];
} tiles;
static void load(int t, const void *from, size_t stride) {
    for (int r = 0; r < 16; r++) memcpy(tiles.row[t][r], (const char *)from + r * stride, 64);
}
static void store(int t, void *to, size_t stride) {
    for (int r = 0; r < 16; r++) memcpy((char *)to + r * stride, tiles.row[t][r], 64);
}
static void product(int c, int a, int b) {
    for (int m = 0; m < 16; m++) {
        __m512 sum = _mm512_load_ps(tiles.row[c][m]);
        for (int k = 0; k < 16; k++) {
            int32_t pair;
            memcpy(&pair, tiles.row[a][m] + 4 * k, 4);
            sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_load_si512(tiles.row[b][k]));
        }
        _mm512_store_ps(tiles.row[c][m], sum);
    }
}

}  // namespace emulated

#define __m512h emulated::H
#define __m256h emulated::H256
#define _mm512_set1_ph emulated::same
#define _mm512_setzero_ph() (emulated::H{_mm512_setzero_si512()})
#define _mm512_add_ph emulated::add
#define _mm512_mul_ph emulated::mul
#define _mm512_min_ph emulated::least
#define _mm512_max_ph emulated::most
#define _mm512_fmadd_ph emulated::fma
#undef _mm512_reduce_ph
#define _mm512_reduce_ph(a, how) emulated::fraction(a)
#undef _mm512_add_round_ph
#define _mm512_add_round_ph(a, b, how) emulated::add_quiet(a, b)
#undef _mm512_mul_round_ph
#define _mm512_mul_round_ph(a, b, how) emulated::mul_quiet(a, b)
#undef _mm512_scalef_round_ph
#define _mm512_scalef_round_ph(a, b, how) emulated::scalef_quiet(a, b)
#define _mm512_rcp_ph emulated::reciprocal
#define _mm512_cvtxps_ph(a) (emulated::H256{_mm512_cvtps_ph(a, 0)})
#define _mm512_cvtxph_ps(a) _mm512_cvtph_ps((a).v)
#define _mm512_castsi512_ph(a) (emulated::H{a})
#define _mm512_castph_si512(a) ((a).v)
#define _mm256_castph_si256(a) ((a).v)
#define _mm256_castsi256_ph(a) (emulated::H256{a})
#define _mm512_castph512_ph256(a) (emulated::H256{_mm512_castsi512_si256((a).v)})
#define _mm512_loadu_ph(p) (emulated::H{_mm512_loadu_si512(p)})
#define _mm512_storeu_ph(p, a) _mm512_storeu_si512(p, (a).v)
#undef _tile_loadd
#define _tile_loadd(t, from, stride) emulated::load(t, from, stride)
#undef _tile_stored
#define _tile_stored(t, to, stride) emulated::store(t, to, stride)
#undef _tile_dpbf16ps
#define _tile_dpbf16ps(c, a, b) emulated::product(c, a, b)
#undef _tile_loadconfig
#define _tile_loadconfig(config) (void)(config)
#undef _tile_release
#define _tile_release() (void)0
#include <unistd.h>
#define syscall(...) 0
