// Every convolution but the depthwise ones: C[pixels][32] = bias + sum over k-tiles of A[pixels][32 k] B[32 k][32], bf16 in, fp32 out, on AMX.
//
// A k-tile of A is 16 rows (pixels) of 64 bytes, `row_bytes` apart, that start `offsets[k]` elements behind the block's first
// pixel. So one loop does the 1x1 (offsets step over slabs), the k x k (over slabs, rows and columns of a zero-bordered map)
// and the stem (over rows of a map with 4 channels a pixel: 64 bytes = 8 pixels, of which the kernel uses the first few).
#pragma once
#include <stddef.h>

#include "simd.h"

namespace phi {

struct Packed {               // weights of one convolution
    int k_tiles = 0;          // of 32 inputs (taps and channels)
    int blocks = 0;           // of 32 outputs
    bf16 *weights = nullptr;  // [blocks][k_tiles][2 halves][16 pairs of inputs][16 outputs][2]
    float *bias = nullptr;    // [blocks][32]
    const bf16 *block(int n) const { return weights + (size_t)n * k_tiles * 1024; }
    static size_t place(int out, int in_tile, int in, int k_tiles) {  // where weight (out, 32 in_tile + in) goes
        return ((size_t)(out / 32) * k_tiles + in_tile) * 1024 + (out % 32) / 16 * 512 + in / 2 * 32 + out % 16 * 2 + in % 2;
    }
};

struct Rows {  // up to 32 pixels of A
    const bf16 *first;
    int count;
};

// GCC's tile intrinsics don't say that they read memory: what was written before must not be kept back
INLINE void memory_is_read(const void *p) { asm volatile("" : : "r"(p) : "memory"); }

INLINE void amx_begin() {  // eight tiles of 16 rows x 64 bytes
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    memory_is_read(&config);
    _tile_loadconfig(&config);
}
INLINE void amx_end() { _tile_release(); }

// For i in [0, count): rows_at(i) names the pixels, done(i, pixels, c) takes their sums c[pixel][32].
// done() of a block is called while the next one is in the tiles: the two run side by side in the processor.
template <class RowsAt, class Done>
INLINE void gemm(int count, RowsAt rows_at, const ptrdiff_t *offsets, size_t row_bytes, const Packed &packed, const bf16 *weights, int n, Done done) {
    alignas(64) float c[2][32 * 32];
    const float *bias = packed.bias + n * 32;
    int before = 0;
    memory_is_read(weights);
    for (int i = 0; i < count; i++) {
        Rows rows = rows_at(i);
        const bf16 *b = weights;
        const size_t second = 16 * row_bytes / sizeof(bf16);
        float *out = c[i & 1];
        _tile_loadd(0, bias, 0);
        _tile_loadd(1, bias + 16, 0);
        if (rows.count > 16) {
            _tile_loadd(2, bias, 0);
            _tile_loadd(3, bias + 16, 0);
            for (int k = 0; k < packed.k_tiles; k++, b += 1024) {
                const bf16 *a = rows.first + offsets[k];
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
                _tile_loadd(4, rows.first + offsets[k], row_bytes);
                _tile_loadd(6, b, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, b + 512, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
        }
        if (i) done(i - 1, before, (const float *)c[(i - 1) & 1]);
        _tile_stored(0, out, 128);
        _tile_stored(1, out + 16, 128);
        if (rows.count > 16) {
            _tile_stored(2, out + 512, 128);
            _tile_stored(3, out + 528, 128);
        }
        before = rows.count;
    }
    if (count) done(count - 1, before, (const float *)c[(count - 1) & 1]);
}

}  // namespace phi
