// 1x1 convolutions in int8: weights with a scale an output, inputs of one range, whose map the part before has written as bytes.
// Where a level has no products of bytes, the names stand for what it has, and nothing of it runs.
#pragma once
#include <algorithm>
#include <cmath>

#include "level.h"

namespace phi {

constexpr float MOST_WEIGHT = 127;

#if defined(PHI_INT8)

constexpr bool INT8 = true;
using Byte = uint8_t;
using ByteWeight = int8_t;
using PackedBytes = PackedAs<Bytes>;
INLINE void store(Byte *p, V v, Quantiser to) { reg::store(p, v.r[0], to); }

// float32 weights of a 1x1 convolution, [group][inputs][outputs of the group], times a gate for each input -> what `to` holds; means: of each input
static void fold_gates(const float *from, const float *bias, const float *gates, Quantiser input, const float *means, const PackedBytes &to) {
    const Reg sign = reg::same(-0.f);
    const __m512i low = _mm512_set1_epi32(255), ones = _mm512_set1_epi8(1);
    for (int group = 0; group < to.groups.count(); group++) {
        const int outputs = to.groups.width(group) * SLAB;
        for (int o = 0; o < outputs; o += LANES) {
            const float *const weights = from + to.start(group) + o;
            Reg most = reg::same(0.f);
            for (size_t k = 0; k < to.column; k++) most = reg::most(most, _mm512_andnot_ps(sign, reg::mul(reg::load(weights + k * outputs), reg::same(gates[k]))));
            const Reg inverse = reg::div(reg::same(MOST_WEIGHT), reg::most(most, reg::same(1e-30f)));
            __m512i sum = _mm512_setzero_si512();
            Reg drift = reg::same(0.f);  // in steps of the weights
            for (size_t k = 0; k < to.column; k += 4) {
                __m512i four[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    const Reg gated = reg::mul(reg::load(weights + (k + i) * outputs), reg::mul(inverse, reg::same(gates[k + i])));
                    const __m512i whole = _mm512_cvtps_epi32(gated);
                    drift = reg::fma(reg::sub(_mm512_cvtepi32_ps(whole), gated), reg::same(means[k + i]), drift);
                    four[i] = _mm512_slli_epi32(_mm512_and_si512(whole, low), 8 * i);
                }
                const __m512i together = _mm512_or_si512(_mm512_or_si512(four[0], four[1]), _mm512_or_si512(four[2], four[3]));
                sum = _mm512_dpbusd_epi32(sum, ones, together);
                _mm512_storeu_si512(to.weights + to.start(group) + k * outputs + (size_t)o * 4, together);
            }
            const int at = to.groups.first(group) * SLAB + o;
            const Reg step = reg::mul(most, reg::same(1 / MOST_WEIGHT)), scale = reg::mul(step, reg::same(input.scale));
            reg::store(to.scale + at, scale);
            const Reg unbiased = reg::sub(reg::load(bias + at), reg::mul(drift, step));
            reg::store(to.bias + at, reg::sub(unbiased, reg::mul(scale, reg::mul(_mm512_cvtepi32_ps(sum), reg::same(input.zero)))));
        }
    }
}

#else

constexpr bool INT8 = false;
using Byte = elem;
using ByteWeight = elem;
using PackedBytes = Packed;
INLINE void store(Byte *, V, Quantiser) {}
INLINE void fold_gates(const float *, const float *, const float *, Quantiser, const float *, const PackedBytes &) {}

#endif

}  // namespace phi
