// Depthwise k x k over a ring of zero-bordered rows, 32 channels (one slab) at a time.
#pragma once
#include <algorithm>

#include "simd.h"

namespace phi {

struct DepthwiseJob {
    const uint16_t *ring;  // [rows][row_pixels][32]; input row y, counted from the top border, is at y & row_mask
    size_t row_pixels;
    int row_mask;
    const void *weights;  // Precision::Weight [k * k][32]
    const void *bias;     // Precision::Weight [32]
    int activation;
    bf16 *out;      // [out_height][out_width][32]
    int out_width;  // at least the kernel's tile
    int first, last;  // output rows [first, last)
    float *sum;       // [32] += every output, for squeeze-excite; null: not wanted
};
using Depthwise = void (*)(const DepthwiseJob &);

// T outputs of a row in registers; each input pixel is loaded once a kernel row. A row's last tile may overlap the one before.
template <class P, int K, int S, int T>
static void depthwise(const DepthwiseJob &job) {
    using Vec = typename P::Vec;
    auto weights = (const typename P::Weight *)job.weights;
    const Vec bias = P::weight((const typename P::Weight *)job.bias);
    F2 total{_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int y = job.first; y < job.last; y++)
        for (int begin = 0; begin < job.out_width; begin += T) {
            const int x = std::min(begin, job.out_width - T), old = begin - x;
            Vec acc[T];
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) acc[t] = bias;
            for (int ky = 0; ky < K; ky++) {
                const uint16_t *in = job.ring + ((size_t)((y * S + ky) & job.row_mask) * job.row_pixels + (size_t)x * S) * 32;
                Vec w[K];
#pragma GCC unroll 8
                for (int kx = 0; kx < K; kx++) w[kx] = P::weight(weights + (ky * K + kx) * 32);
#pragma GCC unroll 40
                for (int j = 0; j < (T - 1) * S + K; j++) {
                    const Vec v = P::load(in + j * 32);
#pragma GCC unroll 8
                    for (int kx = 0; kx < K; kx++)
                        if (j >= kx && (j - kx) % S == 0 && (j - kx) / S < T) acc[(j - kx) / S] = P::fma(v, w[kx], acc[(j - kx) / S]);
                }
            }
            with_act(job.activation, [&](auto a) __attribute__((always_inline)) {
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) acc[t] = act<decltype(a)::value>(acc[t]);
            });
            bf16 *out = job.out + ((size_t)y * job.out_width + x) * 32;
            if (job.sum) {
                Vec tile = P::zero();
                if (old == 0) {
#pragma GCC unroll 16
                    for (int t = 0; t < T; t++) tile = P::plus(tile, acc[t]);
                } else {
#pragma GCC unroll 16
                    for (int t = 0; t < T; t++)
                        if (t >= old) tile = P::plus(tile, acc[t]);
                }
                total = add(total, P::widen(tile));
            }
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) _mm512_storeu_si512(out + t * 32, pack_bf16(P::widen(acc[t])));
        }
    if (job.sum) store2(job.sum, add(load2(job.sum), total));
}

// The kernel for a row of `width` outputs, and its tile: the one that computes fewest outputs twice. Null: no such kernel or stride.
template <class P, int K, int S>
static Depthwise depthwise_for(int width) {
    struct Choice {
        int tile;
        Depthwise run;
    };
    static const Choice half[] = {
        {1, depthwise<P, K, S, 1>}, {2, depthwise<P, K, S, 2>}, {3, depthwise<P, K, S, 3>},   {4, depthwise<P, K, S, 4>},
        {5, depthwise<P, K, S, 5>}, {6, depthwise<P, K, S, 6>}, {7, depthwise<P, K, S, 7>},   {8, depthwise<P, K, S, 8>},
    };
    static const Choice longer[] = {{10, depthwise<Half, K, S, 10>}, {12, depthwise<Half, K, S, 12>}, {14, depthwise<Half, K, S, 14>}};
    Depthwise best = nullptr;
    int least = 0;
    auto consider = [&](const Choice &choice) {
        const int cost = (width + choice.tile - 1) / choice.tile * (choice.tile + 2);  // 2: what a tile costs beside its outputs
        if (choice.tile <= width && (!best || cost <= least)) best = choice.run, least = cost;
    };
    for (const Choice &choice : half)
        if (sizeof(typename P::Vec) == 64 || choice.tile <= 7) consider(choice);  // fp32 fills twice the registers
    if (sizeof(typename P::Vec) == 64)
        for (const Choice &choice : longer) consider(choice);
    return best;
}
template <class P>
static Depthwise depthwise_for(int kernel, int stride, int width) {
    if (stride == 1) {
        if (kernel == 3) return depthwise_for<P, 3, 1>(width);
        if (kernel == 5) return depthwise_for<P, 5, 1>(width);
        if (kernel == 7) return depthwise_for<P, 7, 1>(width);
    } else if (stride == 2) {
        if (kernel == 3) return depthwise_for<P, 3, 2>(width);
        if (kernel == 5) return depthwise_for<P, 5, 2>(width);
        if (kernel == 7) return depthwise_for<P, 7, 2>(width);
    }
    return nullptr;
}

}  // namespace phi
