// Levels avx512 and avx2 (fp32), avx512_bf16 (maps and weights in bf16; sums, rings, depthwise convolutions and activations in fp32).
#pragma once
#include <type_traits>
#include <utility>

#include "registers.h"

namespace phi {

constexpr int SLAB = 16;
constexpr int PARTS = SLAB / LANES;  // registers that a slab's fp32 numbers take

struct V {
    Reg r[PARTS];
};

template <class Fn>
INLINE V each(Fn fn) {
    V v;
#pragma GCC unroll 2
    for (int i = 0; i < PARTS; i++) v.r[i] = fn(i);
    return v;
}
template <class T>
INLINE V load(const T *p) {
    return each([&](int i) __attribute__((always_inline)) { return reg::load(p + i * LANES); });
}
template <class T>
INLINE void store(T *p, V v) {
#pragma GCC unroll 2
    for (int i = 0; i < PARTS; i++) reg::store(p + i * LANES, v.r[i]);
}
INLINE V all(float f) {
    return each([&](int) __attribute__((always_inline)) { return reg::same(f); });
}
INLINE V zero() { return all(0.f); }
INLINE V add(V a, V b) {
    return each([&](int i) __attribute__((always_inline)) { return reg::add(a.r[i], b.r[i]); });
}
INLINE V mul(V a, V b) {
    return each([&](int i) __attribute__((always_inline)) { return reg::mul(a.r[i], b.r[i]); });
}
INLINE V fma(V a, V b, V c) {
    return each([&](int i) __attribute__((always_inline)) { return reg::fma(a.r[i], b.r[i], c.r[i]); });
}

// ---- activations; NaN passes through each (least and most give their second operand where one is NaN) ----

// 1 + exp(-x) = 1 + 2^t, t = -x log2 e. Measured on Zen 5, cycles for 16 numbers of SiLU: 6.9 as below in fp32 (7.9 with rcp14 and a
// step of Newton's), 3.9 as below in bf16 (5.1 with the bits of the other).
#if defined(PHI_BF16)
// 2^t = scalef(p(t - floor t), t), p a cubic within 2e-4, where bf16 itself is within 4e-3
INLINE Reg one_plus_exp(Reg x) {
    const Reg t = reg::mul(x, reg::same(-1.44269504f)), f = _mm512_reduce_ps(t, 1);
    Reg p = reg::fma(reg::same(0.0790199f), f, reg::same(0.2241264f));
    p = reg::fma(p, f, reg::same(0.6968386f));
    p = reg::fma(p, f, reg::same(0.9998119f));
    return reg::add(_mm512_scalef_ps(p, t), reg::same(1.f));
}
INLINE Reg sigmoid(Reg x) { return reg::reciprocal(one_plus_exp(x)); }
INLINE Reg silu(Reg x) { return reg::mul(x, sigmoid(x)); }
#else
// 2^t = p(f) 2^n, n the nearest whole number to t and f = t - n, p of degree 5 within 7e-8. (Degree 4, within 2.6e-6, saved 1.3 cycles
// and made a network's error three times PyTorch's.) x is bounded so that 2^n is a normal number; 1.5 * 2^23 leaves n in the low bits.
INLINE Reg one_plus_exp(Reg x) {
    using namespace reg;
    const Reg bounded = least(same(86.f), most(same(-86.f), x)), magic = same(12582912.f), slope = same(-1.44269504f);
    const Reg bits = fma(bounded, slope, magic), f = fma(bounded, slope, sub(magic, bits));
    Reg p = fma(same(0.00132764701f), f, same(0.00967554096f));
    p = fma(p, f, same(0.0555071309f));
    p = fma(p, f, same(0.240221202f));
    p = fma(p, f, same(0.693146944f));
    p = fma(p, f, same(1.00000012f));
    return add(scale(p, bits), same(1.f));
}
INLINE Reg sigmoid(Reg x) { return reg::div(reg::same(1.f), one_plus_exp(x)); }
INLINE Reg silu(Reg x) { return reg::div(x, one_plus_exp(x)); }
#endif
template <int ACT>
INLINE Reg act(Reg x) {
    using namespace reg;
    if constexpr (ACT == PHI_SILU) return silu(x);
    if constexpr (ACT == PHI_RELU) return most(same(0.f), x);
    if constexpr (ACT == PHI_RELU6) return least(same(6.f), most(same(0.f), x));
    if constexpr (ACT == PHI_HARDSWISH) return mul(x, mul(least(same(6.f), most(same(0.f), add(x, same(3.f)))), same(1.f / 6.f)));
    return x;
}
INLINE V sigmoid(V x) {
    return each([&](int i) __attribute__((always_inline)) { return sigmoid(x.r[i]); });
}
template <int ACT>
INLINE V act(V x) {
    return each([&](int i) __attribute__((always_inline)) { return act<ACT>(x.r[i]); });
}

struct Single {  // fp32 in memory and in arithmetic
    using Elem = float;
    using Weight = float;
    using Vec = V;
    INLINE Vec from(V v) { return v; }
    INLINE V widen(Vec v) { return v; }
    INLINE void store(Elem *p, Vec v) { phi::store(p, v); }

    struct Lane {  // what a depthwise convolution keeps in a register
        static constexpr int LANES = phi::LANES, MOST = REGISTERS == 32 ? 14 : 8;  // of a register; outputs held at a time
        using Elem = float;
        using Out = elem;
        using Weight = float;
        using Vec = Reg;
        INLINE Vec load(const Elem *p) { return reg::load(p); }
        INLINE Vec weight(const Weight *p) { return reg::load(p); }
        INLINE Vec fma(Vec a, Vec b, Vec c) { return reg::fma(a, b, c); }
        INLINE Vec plus(Vec a, Vec b) { return reg::add(a, b); }
        INLINE Vec zero() { return reg::same(0.f); }
        INLINE void put(Out *p, Vec v, Quantiser) { reg::store(p, v); }
        INLINE void add_to(float *p, Vec v) { reg::store(p, reg::add(reg::load(p), v)); }
    };
#if defined(PHI_INT8)
    struct ByteLane : Lane {
        using Out = uint8_t;
        INLINE void put(Out *p, Vec v, Quantiser to) { reg::store(p, v, to); }
    };
#else
    using ByteLane = Lane;
#endif
};

using Fast = Single;
using Exact = Single;
using Gate = elem;  // weights of squeeze-excite

constexpr unsigned MXCSR = 0x9fc0;  // round to nearest, no traps, subnormal numbers are zero: they would take a hundred cycles each
INLINE void clear_overflow() {}
INLINE bool overflow() { return false; }
INLINE void permit() {}
INLINE void begin() {}
INLINE void end() {}

// ---- convolutions: C[pixels][16 outputs each of a group's slabs] = bias + sum over inputs of A[pixels][inputs] B[inputs][outputs] ----
//
// A tile of T pixels x a group's outputs stays in registers; each weight is loaded once a tile, each input broadcast once a group.
// A k-tile is a slab of inputs of one tap; it starts `offsets[k]` elements behind the first pixel, pixels are `step` elements apart.
// Only inputs that exist are multiplied: the last slab of a tap may be short.

struct Groups {  // slabs of outputs that are computed at a time: 2 or 3 of AVX-512, so that loads keep up with products
    int slabs;
    static constexpr int LARGEST = LANES == 16 ? 3 : 1;
    int twos() const { return LARGEST == 1 || slabs % 3 == 0 || slabs == 1 ? 0 : (slabs - slabs % 2 * 3) / 2; }
    int count() const { return LARGEST == 1 || slabs == 1 ? slabs : twos() + (slabs - 2 * twos()) / 3; }
    int first(int group) const { return LARGEST == 1 ? group : group <= twos() ? 2 * group : 2 * twos() + 3 * (group - twos()); }
    int width(int group) const { return LARGEST == 1 || slabs == 1 ? 1 : group < twos() ? 2 : 3; }
    int of(int slab) const { return LARGEST == 1 ? slab : slab < 2 * twos() ? slab / 2 : twos() + (slab - 2 * twos()) / 3; }
};

template <class M>            // Elems or Bytes
struct PackedAs {             // weights of one convolution
    static constexpr int TOGETHER = M::TOGETHER;
    int k_tiles = 0;  // of SLAB inputs
    int in_slabs = 1, tail = 0;  // k-tiles of a tap, and inputs in the last of them
    size_t column = 0;           // inputs of all taps, each tap's rounded up to TOGETHER
    Groups groups{0};
    typename M::Weight *weights = nullptr;  // [group][column / TOGETHER][outputs of the group][TOGETHER]
    float *bias = nullptr;                  // [slab][SLAB]
    float *scale = nullptr;                 // of Bytes, [slab][SLAB]: what a sum of products counts
    PackedAs() = default;
    PackedAs(int out, int in_slabs, int taps, int tail)
        : k_tiles(in_slabs * taps), in_slabs(in_slabs), tail(up(tail, TOGETHER)), column((size_t)taps * ((in_slabs - 1) * SLAB + up(tail, TOGETHER))), groups{up(out, SLAB) / SLAB} {}
    size_t size() const { return (size_t)groups.slabs * SLAB * column; }
    size_t start(int group) const { return (size_t)groups.first(group) * SLAB * column; }
    size_t place(int out, int k_tile, int in) const {  // where weight (out, SLAB k_tile + in) goes
        const int group = groups.of(out / SLAB);
        const size_t k = (size_t)(k_tile / in_slabs) * ((in_slabs - 1) * SLAB + tail) + k_tile % in_slabs * SLAB + in;
        return start(group) + (k / TOGETHER * groups.width(group) * SLAB + (out - groups.first(group) * SLAB)) * TOGETHER + k % TOGETHER;
    }
};
using Packed = PackedAs<Elems>;

// weights of a 1x1 convolution times a gate for each of its inputs
INLINE void fold_gates(const Packed &packed, const float *gates, elem *out) {
    for (int group = 0; group < packed.groups.count(); group++) {
        const elem *from = packed.weights + packed.start(group);
        elem *to = out + packed.start(group);
        for (size_t k = 0; k < packed.column; k += PAIR) {
            for (int r = 0; r < packed.groups.width(group) * PARTS; r++, from += LANES * PAIR, to += LANES * PAIR) {
#if defined(PHI_BF16)
                const __m512i odd = _mm512_set1_epi32((int)0xffff0000), half = _mm512_set1_epi32(0x8000), v = _mm512_loadu_si512(from);
                const __m512 e = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), _mm512_set1_ps(gates[k]));
                const __m512 o = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(v, odd)), _mm512_set1_ps(gates[k + 1]));
                const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(e), half), 16);
                const __m512i high = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(o), half), odd);
                _mm512_storeu_si512(to, _mm512_or_si512(low, high));
#else
                reg::store(to, reg::mul(reg::load(from), reg::same(gates[k])));
#endif
            }
        }
    }
}

template <class M>
struct Column {  // the weights of a group
    const typename M::Weight *weights;
    const float *bias, *scale;
    size_t ahead;  // elements from these weights to those that this thread is going to need next
};
template <class M>
using Tile = void (*)(const typename M::Input *first, size_t step, const ptrdiff_t *offsets, const PackedAs<M> &packed, const Column<M> &column, float *c);

// T pixels x W slabs; STEP: elements from a pixel to the next where the compiler may know them, else 0.
// Meanwhile the next weights come from memory or L3 to L2, which the processor does not see to in time by itself.
template <class M, int T, int W, int STEP>
static void tile(const typename M::Input *first, size_t step, const ptrdiff_t *offsets, const PackedAs<M> &packed, const Column<M> &column, float *c) {
    using Sum = typename M::Sum;
    constexpr int TOGETHER = M::TOGETHER;
    const typename M::Weight *b = column.weights;
    const size_t ahead = column.ahead;
    constexpr int R = W * PARTS;
    const size_t stride = STEP ? STEP : step;
    Sum acc[T][R];
#pragma GCC unroll 3
    for (int r = 0; r < R; r++) {
        const Sum start = M::start(column.bias + r * LANES);
#pragma GCC unroll 16
        for (int t = 0; t < T; t++) acc[t][r] = start;
    }
    for (int k = 0, slab = 0; k < packed.k_tiles; k++) {
        const bool last = ++slab == packed.in_slabs;
        if (last) slab = 0;
        const typename M::Input *a = first + offsets[k];
        const typename M::Input *const stop = a + (last ? packed.tail : SLAB);
#pragma GCC unroll 1
        for (; a < stop; a += TOGETHER, b += R * LANES * TOGETHER) {
            Sum w[R];
#pragma GCC unroll 3
            for (int r = 0; r < R; r++) w[r] = M::weights(b + r * LANES * TOGETHER), _mm_prefetch(b + r * LANES * TOGETHER + ahead, _MM_HINT_T1);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) {
                const Sum v = M::broadcast(a + t * stride);
#pragma GCC unroll 3
                for (int r = 0; r < R; r++) acc[t][r] = M::dot(v, w[r], acc[t][r]);
            }
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; t++)
#pragma GCC unroll 3
        for (int r = 0; r < R; r++) reg::store(c + (t * R + r) * LANES, M::finish(acc[t][r], column.scale + r * LANES, column.bias + r * LANES));
}

// pixels in a tile: as many as the registers hold; fewer where each pixel's address takes a register of its own
template <int W, int STEP>
constexpr int most_pixels() {
    constexpr int held = (REGISTERS - W * PARTS - 1) / (W * PARTS);
    return STEP ? (held < 14 ? held : 14) : (held < 8 ? held : 8);
}
template <class M, int W, int STEP, int... T>
INLINE Tile<M> pick(int pixels, std::integer_sequence<int, T...>) {
    static constexpr Tile<M> tiles[] = {tile<M, T + 1, W, STEP>...};
    return tiles[pixels - 1];
}

template <class M, int W, int STEP>
INLINE void piece(const Rows &rows, const ptrdiff_t *offsets, size_t step, const PackedAs<M> &packed, const Column<M> &column, float *c) {
    constexpr int MOST = most_pixels<W, STEP>();
    const int tiles = (rows.count + MOST - 1) / MOST;
    for (int i = 0; i < tiles; i++) {
        const int from = rows.count * i / tiles, to = rows.count * (i + 1) / tiles;
        const Tile<M> run = pick<M, W, STEP>(to - from, std::make_integer_sequence<int, MOST>());
        run((const typename M::Input *)rows.first + from * step, step, offsets, packed, column, c + from * W * SLAB);
    }
}
template <class M, int W>
static void piece(const Rows &rows, const ptrdiff_t *offsets, size_t step, const PackedAs<M> &packed, const Column<M> &column, float *c) {
    if (step == SLAB) return piece<M, W, SLAB>(rows, offsets, step, packed, column, c);
    if constexpr (std::is_same_v<M, Elems>) {  // bytes are of 1x1 convolutions, whose pixels lie side by side
        if (step == 2 * SLAB) return piece<M, W, 2 * SLAB>(rows, offsets, step, packed, column, c);
        piece<M, W, 0>(rows, offsets, step, packed, column, c);
    }
}

// The size of the pieces that `pixels` are best taken in: equal ones.
INLINE int piece_of(int pixels) {
    const int pieces = (pixels + PIECE - 1) / PIECE;
    return pieces ? (pixels + pieces - 1) / pieces : 1;
}

// For i in [0, count) and each slab s of the group: rows_at(i) names the pixels; done(i, s, pixels, c, row) takes their sums c[pixel * row + ...].
// next: the group that this thread is likely to do afterwards is as many further.
template <class M, class RowsAt, class Done>
INLINE void gemm(int count, RowsAt rows_at, const ptrdiff_t *offsets, size_t step, const PackedAs<M> &packed, const typename M::Weight *weights, int group, int next, Done done) {
    alignas(64) float c[PIECE * Groups::LARGEST * SLAB];
    const int width = packed.groups.width(group);
    const size_t start = packed.start(group), then = packed.start(std::min(group + next, packed.groups.count()));
    const int output = packed.groups.first(group) * SLAB;
    const Column<M> column{weights + start, packed.bias + output, (packed.scale ? packed.scale : packed.bias) + output, then - start};
    for (int i = 0; i < count; i++) {
        const Rows rows = rows_at(i);
        if constexpr (Groups::LARGEST == 3) {
            if (width == 3) piece<M, 3>(rows, offsets, step, packed, column, c);
            if (width == 2) piece<M, 2>(rows, offsets, step, packed, column, c);
        }
        if (width == 1) piece<M, 1>(rows, offsets, step, packed, column, c);
        for (int s = 0; s < width; s++) done(i, s, rows.count, (const float *)c + s * SLAB, width * SLAB);
    }
}

// ---- the image: zero-bordered planes; one k-tile of the stem is one channel and row of its kernel ----

struct Image {
    int rows, row_pixels;
    static int tiles(int channels, int kernel) { return channels * kernel; }
    static int tile(int channel, int ky, int kernel) { return channel * kernel + ky; }
    static int within(int, int kx) { return kx; }
    static int tail(int kernel) { return kernel; }
    ptrdiff_t offset(int tile, int kernel) const { return ((ptrdiff_t)(tile / kernel) * rows + tile % kernel) * row_pixels; }
    size_t step(int stride) const { return (size_t)stride; }
    size_t size(int channels) const { return (size_t)channels * rows * row_pixels; }
    size_t at(int y, int x) const { return (size_t)y * row_pixels + x; }
};

// One row of pixels of every channel.
INLINE void load_pixels(const Image &image, elem *to, const float *from, size_t plane, int channels, int width) {
    for (int c = 0; c < channels; c++, to += (size_t)image.rows * image.row_pixels, from += plane) {
        int x = 0;
        for (; x + LANES <= width; x += LANES) reg::store(to + x, reg::load(from + x));
        for (; x < width; x++) to[x] = to_elem(from[x]);
    }
}

}  // namespace phi
