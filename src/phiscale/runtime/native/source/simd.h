// What every level shares: bf16 by hand, and an activation as a compile-time number.
//
// A level is a set of instructions and what the engine computes in with them. Each is compiled from the same sources into a library
// of its own, so that no instruction is met by a processor that lacks it. A level's header gives
//   elem, SLAB          what a map holds, and the channels of one pixel that lie together: [slab][pixel][SLAB]
//   V                   SLAB fp32 numbers: load, store (of floats and of elems), add, mul, fma, all, zero, sigmoid, act
//   Fast, Exact         the precisions of a block: what its ring holds and its depthwise convolution runs in (one and the same but on AMX)
//   Packed, gemm        weights of a convolution, and every convolution that is not depthwise
//   Image, load_pixels  how the stem reads an image
#pragma once
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine.h"

#define INLINE static inline __attribute__((always_inline))

namespace phi {

using bf16 = uint16_t;

INLINE bf16 to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return bf16((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// Between a number x and its byte: x = scale * (byte - zero), inverse = 1 / scale; what is out of the range of a byte becomes its nearest.
struct Quantiser {
    float inverse = 0, zero = 0, scale = 0;
};

constexpr int up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

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

// Pixels that a convolution takes in a row: `total` in pieces of one size, at most 32.
constexpr int PIECE = 32;
struct Rows {  // up to PIECE pixels of a map, from `first` on
    const void *first;
    int count;
};

}  // namespace phi
