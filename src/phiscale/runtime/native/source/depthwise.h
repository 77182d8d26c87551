// Depthwise k x k over a ring of zero-bordered rows, one slab of channels at a time.
#pragma once
#include <algorithm>

#include "level.h"

namespace phi {

struct DepthwiseJob {
    const void *ring;  // Lane::Elem [rows][row_pixels][SLAB]; input row y, counted from the top border, is at y & row_mask
    size_t row_pixels;
    int row_mask;
    const void *weights;  // Lane::Weight [k * k][SLAB]
    const void *bias;     // Lane::Weight [SLAB]
    int activation;
    void *out;        // Lane::Out [out_height][out_width][SLAB]
    Quantiser quantiser;  // of Lanes that put bytes
    int out_width;    // at least the kernel's tile
    int first, last;  // output rows [first, last)
    float *sum;       // [SLAB] += every output, for squeeze-excite; null: not wanted
};
using Depthwise = void (*)(const DepthwiseJob &);

// T outputs of a row in registers; each input pixel is loaded once a kernel row. A row's last tile may overlap the one before.
template <class L, int K, int S, int T>
static void depthwise(const DepthwiseJob &job) {
    using Vec = typename L::Vec;
    for (int part = 0; part < SLAB; part += L::LANES) {
        auto weights = (const typename L::Weight *)job.weights + part;
        auto ring = (const typename L::Elem *)job.ring + part;
        const Vec bias = L::weight((const typename L::Weight *)job.bias + part);
        for (int y = job.first; y < job.last; y++)
            for (int begin = 0; begin < job.out_width; begin += T) {
                const int x = std::min(begin, job.out_width - T), old = begin - x;
                Vec acc[T];
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) acc[t] = bias;
                for (int ky = 0; ky < K; ky++) {
                    auto in = ring + ((size_t)((y * S + ky) & job.row_mask) * job.row_pixels + (size_t)x * S) * SLAB;
                    Vec w[K];
#pragma GCC unroll 8
                    for (int kx = 0; kx < K; kx++) w[kx] = L::weight(weights + (ky * K + kx) * SLAB);
#pragma GCC unroll 40
                    for (int j = 0; j < (T - 1) * S + K; j++) {
                        const Vec v = L::load(in + j * SLAB);
#pragma GCC unroll 8
                        for (int kx = 0; kx < K; kx++)
                            if (j >= kx && (j - kx) % S == 0 && (j - kx) / S < T) acc[(j - kx) / S] = L::fma(v, w[kx], acc[(j - kx) / S]);
                    }
                }
                with_act(job.activation, [&](auto a) __attribute__((always_inline)) {
#pragma GCC unroll 16
                    for (int t = 0; t < T; t++) acc[t] = act<decltype(a)::value>(acc[t]);
                });
                typename L::Out *out = (typename L::Out *)job.out + ((size_t)y * job.out_width + x) * SLAB + part;
                if (job.sum) {
                    Vec tile = L::zero();
                    if (old == 0) {
#pragma GCC unroll 16
                        for (int t = 0; t < T; t++) tile = L::plus(tile, acc[t]);
                    } else {
#pragma GCC unroll 16
                        for (int t = 0; t < T; t++)
                            if (t >= old) tile = L::plus(tile, acc[t]);
                    }
                    L::add_to(job.sum + part, tile);
                }
#pragma GCC unroll 16
                for (int t = 0; t < T; t++) L::put(out + t * SLAB, acc[t], job.quantiser);
            }
    }
}

// The kernel for a row of `width` outputs, and its tile: the one that computes fewest outputs twice. Null: no such kernel or stride.
template <class L, int K, int S>
static Depthwise depthwise_for(int width) {
    struct Choice {
        int tile;
        Depthwise run;
    };
    Depthwise best = nullptr;
    int least = 0;
    auto consider = [&](const Choice &choice) {
        const int cost = (width + choice.tile - 1) / choice.tile * (choice.tile + 2);  // 2: what a tile costs beside its outputs
        if (choice.tile <= width && (!best || cost <= least)) best = choice.run, least = cost;
    };
    static const Choice shorter[] = {
        {1, depthwise<L, K, S, 1>}, {2, depthwise<L, K, S, 2>}, {3, depthwise<L, K, S, 3>}, {4, depthwise<L, K, S, 4>},
        {5, depthwise<L, K, S, 5>}, {6, depthwise<L, K, S, 6>}, {7, depthwise<L, K, S, 7>}, {8, depthwise<L, K, S, 8>},
    };
    for (const Choice &choice : shorter) consider(choice);
    if constexpr (L::MOST >= 14) {
        static const Choice longer[] = {{10, depthwise<L, K, S, 10>}, {12, depthwise<L, K, S, 12>}, {14, depthwise<L, K, S, 14>}};
        for (const Choice &choice : longer) consider(choice);
    }
    return best;
}
template <class L>
static Depthwise depthwise_for(int kernel, int stride, int width) {
    if (stride == 1) {
        if (kernel == 3) return depthwise_for<L, 3, 1>(width);
        if (kernel == 5) return depthwise_for<L, 5, 1>(width);
        if (kernel == 7) return depthwise_for<L, 7, 1>(width);
    } else if (stride == 2) {
        if (kernel == 3) return depthwise_for<L, 3, 2>(width);
        if (kernel == 5) return depthwise_for<L, 5, 2>(width);
        if (kernel == 7) return depthwise_for<L, 7, 2>(width);
    }
    return nullptr;
}

}  // namespace phi
