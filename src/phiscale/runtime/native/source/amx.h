// Level amx: bf16 maps and AMX tiles, fp16 rings and depthwise convolutions, which the overflow flag watches over; fp32 where it came up.
#pragma once
#include <sys/syscall.h>
#include <unistd.h>

#include <stdexcept>

#include "simd.h"

namespace phi {

using elem = bf16;
constexpr int SLAB = 32;  // one cache line, one row of a tile, one register of bf16 or fp16

using F = __m512;   // 16 x fp32
using H = __m512h;  // 32 x fp16
struct V {          // 32 x fp32
    F lo, hi;
};

INLINE V load(const float *p) { return {_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16)}; }
INLINE void store(float *p, V v) {
    _mm512_storeu_ps(p, v.lo);
    _mm512_storeu_ps(p + 16, v.hi);
}
INLINE V load(const bf16 *p) {
    const __m512i v = _mm512_loadu_si512(p);
    const __m512i lo = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(v)), hi = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(v, 1));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(lo, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(hi, 16))};
}
INLINE void store(bf16 *p, V v) { _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(v.hi, v.lo)); }
INLINE V all(float f) { return {_mm512_set1_ps(f), _mm512_set1_ps(f)}; }
INLINE V zero() { return {_mm512_setzero_ps(), _mm512_setzero_ps()}; }
INLINE V add(V a, V b) { return {_mm512_add_ps(a.lo, b.lo), _mm512_add_ps(a.hi, b.hi)}; }
INLINE V mul(V a, V b) { return {_mm512_mul_ps(a.lo, b.lo), _mm512_mul_ps(a.hi, b.hi)}; }
INLINE V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.lo, b.lo, c.lo), _mm512_fmadd_ps(a.hi, b.hi, c.hi)}; }

// ---- activations; NaN passes through each (max and min return their second operand where one is NaN) ----

// Exceptions are off (SAE) where an overflow is harmless, so that the overflow flag means what it says.
enum { QUIET = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };

INLINE H half(float f) { return _mm512_set1_ph((_Float16)f); }

// 1 + 2^t: 2^t = scalef(p(frac t), t), p a cubic fitted on [0, 1); its error (2e-4) is below half precision's
INLINE H one_plus_exp2(H t) {
    H f = _mm512_reduce_ph(t, 1);
    H p = _mm512_fmadd_ph(f, half(0.0790199f), half(0.2241264f));
    p = _mm512_fmadd_ph(p, f, half(0.6968386f));
    p = _mm512_fmadd_ph(p, f, half(0.9998119f));
    return _mm512_add_round_ph(_mm512_scalef_round_ph(p, t, QUIET), half(1.f), QUIET);
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
INLINE V sigmoid(V x) { return {sigmoid(x.lo), sigmoid(x.hi)}; }

template <int ACT>
INLINE H act(H x) {
    if constexpr (ACT == PHI_SILU)
        return _mm512_mul_ph(x, _mm512_rcp_ph(one_plus_exp2(_mm512_mul_round_ph(x, half(-1.44269504f), QUIET))));
    if constexpr (ACT == PHI_RELU) return _mm512_max_ph(_mm512_setzero_ph(), x);
    if constexpr (ACT == PHI_RELU6) return _mm512_min_ph(half(6.f), _mm512_max_ph(_mm512_setzero_ph(), x));
    if constexpr (ACT == PHI_HARDSWISH) {
        H gate = _mm512_min_ph(half(6.f), _mm512_max_ph(_mm512_setzero_ph(), _mm512_add_ph(x, half(3.f))));
        return _mm512_mul_ph(x, _mm512_mul_ph(gate, half(1.f / 6.f)));
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
INLINE V act(V v) {
    return {act<ACT>(v.lo), act<ACT>(v.hi)};
}

// ---- the two precisions of a block; both store 2 bytes a channel ----

struct Half {  // fp16 in memory and in arithmetic
    using Elem = uint16_t;
    using Weight = _Float16;
    using Vec = H;
    INLINE Vec from(V v) {
        __m256h lo = _mm512_cvtxps_ph(v.lo), hi = _mm512_cvtxps_ph(v.hi);
        return _mm512_castsi512_ph(_mm512_inserti64x4(_mm512_castsi256_si512(_mm256_castph_si256(lo)), _mm256_castph_si256(hi), 1));
    }
    INLINE V widen(Vec v) {
        __m256i hi = _mm512_extracti64x4_epi64(_mm512_castph_si512(v), 1);
        return {_mm512_cvtxph_ps(_mm512_castph512_ph256(v)), _mm512_cvtxph_ps(_mm256_castsi256_ph(hi))};
    }
    INLINE void store(Elem *p, Vec v) { _mm512_storeu_ph(p, v); }

    struct Lane {  // what a depthwise convolution keeps in a register
        static constexpr int LANES = 32, MOST = 14;  // of a register; outputs held at a time
        using Elem = Half::Elem;
        using Out = bf16;
        using Weight = Half::Weight;
        using Vec = H;
        INLINE Vec load(const Elem *p) { return _mm512_loadu_ph(p); }
        INLINE Vec weight(const Weight *p) { return _mm512_loadu_ph(p); }
        INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ph(a, b, c); }
        INLINE Vec plus(Vec a, Vec b) { return _mm512_add_ph(a, b); }
        INLINE Vec zero() { return _mm512_setzero_ph(); }
        INLINE void put(Out *p, Vec v, Quantiser) { phi::store(p, widen(v)); }
        INLINE void add_to(float *p, Vec v) { phi::store(p, add(phi::load(p), widen(v))); }
    };
    using ByteLane = Lane;  // no int8 here
};

struct Wide {  // bf16 in memory, fp32 in arithmetic
    using Elem = bf16;
    using Weight = float;
    using Vec = V;
    INLINE Vec from(V v) { return v; }
    INLINE V widen(Vec v) { return v; }
    INLINE void store(Elem *p, Vec v) { phi::store(p, v); }

    struct Lane {
        static constexpr int LANES = 16, MOST = 14;
        using Elem = bf16;
        using Out = bf16;
        using Weight = float;
        using Vec = F;
        INLINE Vec load(const Elem *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16)); }
        INLINE Vec weight(const Weight *p) { return _mm512_loadu_ps(p); }
        INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
        INLINE Vec plus(Vec a, Vec b) { return _mm512_add_ps(a, b); }
        INLINE Vec zero() { return _mm512_setzero_ps(); }
        INLINE void put(Out *p, Vec v, Quantiser) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(v)); }
        INLINE void add_to(float *p, Vec v) { _mm512_storeu_ps(p, _mm512_add_ps(_mm512_loadu_ps(p), v)); }
    };
    using ByteLane = Lane;  // no int8 here
};

using Fast = Half;
using Exact = Wide;
using Gate = float;  // weights of squeeze-excite
INLINE elem to_elem(float f) { return to_bf16(f); }

// The processor's own overflow flag tells whether half precision was left in between: nothing overflows silently.
constexpr unsigned MXCSR = 0x1f80;  // round to nearest, no traps, flags clear
constexpr unsigned OVERFLOW_FLAG = 8;
INLINE void clear_overflow() { _mm_setcsr(_mm_getcsr() & ~OVERFLOW_FLAG); }
INLINE bool overflow() { return _mm_getcsr() & OVERFLOW_FLAG; }

// ---- convolutions: C[pixels][32] = bias + sum over k-tiles of A[pixels][32 k] B[32 k][32], bf16 in, fp32 out ----
//
// A k-tile of A is 16 rows (pixels) of 64 bytes, `step` elements apart, that start `offsets[k]` elements behind the block's first
// pixel. So one loop does the 1x1 (offsets step over slabs), the k x k (over slabs, rows and columns of a zero-bordered map)
// and the stem (over rows of a map with 4 channels a pixel: 64 bytes = 8 pixels, of which the kernel uses the first few).

struct Groups {  // slabs of outputs that are computed at a time: one
    int slabs;
    static constexpr int LARGEST = 1;
    int count() const { return slabs; }
    int first(int group) const { return group; }
    int width(int) const { return 1; }
    int of(int slab) const { return slab; }
};

struct Packed {               // weights of one convolution
    int k_tiles = 0;          // of 32 inputs (taps and channels)
    Groups groups{0};         // of 32 outputs
    bf16 *weights = nullptr;  // [slabs][k_tiles][2 halves][16 pairs of inputs][16 outputs][2]
    float *bias = nullptr;    // [slabs][32]
    Packed() = default;
    Packed(int out, int in_slabs, int taps, int) : k_tiles(in_slabs * taps), groups{up(out, SLAB) / SLAB} {}
    size_t size() const { return (size_t)groups.slabs * k_tiles * 1024; }
    size_t place(int out, int k_tile, int in) const {  // where weight (out, 32 k_tile + in) goes
        return ((size_t)(out / 32) * k_tiles + k_tile) * 1024 + (out % 32) / 16 * 512 + in / 2 * 32 + out % 16 * 2 + in % 2;
    }
};

// weights of a 1x1 convolution times a gate for each of its inputs
INLINE void fold_gates(const Packed &packed, const float *gates, bf16 *out) {
    const __m512i odd = _mm512_set1_epi32((int)0xffff0000), half = _mm512_set1_epi32(0x8000);
    for (int n = 0; n < packed.groups.slabs; n++)
        for (int k = 0; k < packed.k_tiles; k++)
            for (int pair = 0; pair < 16; pair++) {
                const F even_gate = _mm512_set1_ps(gates[k * 32 + 2 * pair]), odd_gate = _mm512_set1_ps(gates[k * 32 + 2 * pair + 1]);
                for (int q = 0; q < 2; q++) {
                    const size_t at = ((size_t)n * packed.k_tiles + k) * 1024 + q * 512 + pair * 32;
                    const __m512i v = _mm512_loadu_si512(packed.weights + at);
                    const F e = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), even_gate);
                    const F o = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(v, odd)), odd_gate);
                    const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(e), half), 16);
                    const __m512i high = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(o), half), odd);
                    _mm512_storeu_si512(out + at, _mm512_or_si512(low, high));
                }
            }
}

// GCC's tile intrinsics don't say that they read memory: what was written before must not be kept back
INLINE void memory_is_read(const void *p) { asm volatile("" : : "r"(p) : "memory"); }

INLINE void permit() {  // once a process
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)) throw std::runtime_error("the system does not permit the use of AMX tiles");
}
INLINE void begin() {  // once a run and thread: eight tiles of 16 rows x 64 bytes
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    memory_is_read(&config);
    _tile_loadconfig(&config);
}
INLINE void end() { _tile_release(); }

// A tile has 16 rows, of which two at a time: whole pieces, the last may be short.
INLINE int piece_of(int) { return PIECE; }

// For i in [0, count): rows_at(i) names the pixels; done(i, 0, pixels, c, 32) takes their sums c[pixel][32].
// done() of a piece is called while the next one is in the tiles: the two run side by side in the processor.
template <class RowsAt, class Done>
INLINE void gemm(int count, RowsAt rows_at, const ptrdiff_t *offsets, size_t step, const Packed &packed, const bf16 *weights, int group, int, Done done) {
    alignas(64) float c[2][32 * 32];
    const float *bias = packed.bias + group * 32;
    const size_t row_bytes = step * sizeof(bf16), second = 16 * step;
    int before = 0;
    weights += (size_t)group * packed.k_tiles * 1024;
    memory_is_read(weights);
    for (int i = 0; i < count; i++) {
        Rows rows = rows_at(i);
        const bf16 *first = (const bf16 *)rows.first, *b = weights;
        float *out = c[i & 1];
        _tile_loadd(0, bias, 0);
        _tile_loadd(1, bias + 16, 0);
        if (rows.count > 16) {
            _tile_loadd(2, bias, 0);
            _tile_loadd(3, bias + 16, 0);
            for (int k = 0; k < packed.k_tiles; k++, b += 1024) {
                const bf16 *a = first + offsets[k];
                _tile_loadd(4, a, row_bytes);
                _tile_loadd(6, b, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, b + 512, 64);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, a + second, row_bytes);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        } else {
            for (int k = 0; k < packed.k_tiles; k++, b += 1024) {
                _tile_loadd(4, first + offsets[k], row_bytes);
                _tile_loadd(6, b, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, b + 512, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
        }
        if (i) done(i - 1, 0, before, (const float *)c[(i - 1) & 1], 32);
        _tile_stored(0, out, 128);
        _tile_stored(1, out + 16, 128);
        if (rows.count > 16) {
            _tile_stored(2, out + 512, 128);
            _tile_stored(3, out + 528, 128);
        }
        before = rows.count;
    }
    if (count) done(count - 1, 0, before, (const float *)c[(count - 1) & 1], 32);
}

// ---- the image: zero-bordered rows of 4-channel pixels; one k-tile of the stem is 8 pixels of one kernel row ----

struct Image {
    int rows, row_pixels;
    static int tiles(int, int kernel) { return kernel; }
    static int tile(int, int ky, int) { return ky; }
    static int within(int channel, int kx) { return kx * 4 + channel; }
    static int tail(int) { return 0; }
    ptrdiff_t offset(int tile, int) const { return (ptrdiff_t)tile * row_pixels * 4; }
    size_t step(int stride) const { return (size_t)stride * 4; }
    size_t size(int) const { return (size_t)rows * row_pixels * 4; }
    size_t at(int y, int x) const { return ((size_t)y * row_pixels + x) * 4; }
};

// One row of pixels: float32 planes -> bf16, four channels a pixel.
INLINE void load_pixels(const Image &, bf16 *to, const float *from, size_t plane, int channels, int width) {
    const __m512i zip_low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i zip_high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    for (int x = 0; x < width; x += 16) {
        const __mmask16 mask = width - x >= 16 ? 0xffff : (__mmask16)((1u << (width - x)) - 1);
        __m512i channel[4];
        for (int c = 0; c < 4; c++) {
            channel[c] = _mm512_setzero_si512();
            if (c < channels) channel[c] = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from + c * plane + x)));
        }
        const __m512i low = _mm512_or_si512(channel[0], _mm512_slli_epi32(channel[1], 16));
        const __m512i high = _mm512_or_si512(channel[2], _mm512_slli_epi32(channel[3], 16));
        bf16 *pixel = to + (size_t)x * 4;
        const int lanes = (width - x < 16 ? width - x : 16) * 2;  // 4 bytes each
        _mm512_mask_storeu_epi32(pixel, (__mmask16)((1u << (lanes < 16 ? lanes : 16)) - 1), _mm512_permutex2var_epi32(low, zip_low, high));
        if (lanes > 16) _mm512_mask_storeu_epi32(pixel + 32, (__mmask16)((1u << (lanes - 16)) - 1), _mm512_permutex2var_epi32(low, zip_high, high));
    }
}

}  // namespace phi
