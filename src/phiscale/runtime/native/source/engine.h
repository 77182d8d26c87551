// The C interface of the native engine. Every function is safe to call from any thread; a handle runs one call at a time.
// Weights are folded (no batch norms), float32, in PyTorch's order: convolutions [out][in / groups][k][k], linear [out][in].
#pragma once
#include <stdint.h>

#define PHI_API extern "C" __attribute__((visibility("default")))

enum { PHI_ABI = 2 };  // engine.py refuses another

enum phi_activation { PHI_NONE, PHI_SILU, PHI_RELU, PHI_RELU6, PHI_HARDSWISH };

// depthwise: [1x1 expand] -> k x k depthwise -> [squeeze-excite] -> 1x1 project      (MBConv, depthwise-separable)
// full:      [k x k expand -> [squeeze-excite]] -> project, 1x1 after an expansion and k x k without     (fused MBConv)
enum phi_kind { PHI_DEPTHWISE, PHI_FULL };

typedef struct {
    int32_t kind, w_in, w_mid, w_out, w_se, kernel, stride;
    int32_t skips;         // add the input to the output
    int32_t project_acts;  // the projection is followed by the activation
    int32_t wide;          // keep half precision out of this block from the start (level amx)
    const float *expand_w, *expand_b;  // null: no expansion
    const float *depthwise_w, *depthwise_b;
    const float *reduce_w, *reduce_b, *gate_w, *gate_b;  // squeeze-excite, where w_se > 0
    const float *project_w, *project_b;
} phi_block;

// Of what a 1x1 convolution reads; low < high: it runs in int8
typedef struct {
    float low, high;
    const float *means;  // of each channel: what the rounding of the weights adds to an output on average is taken off its bias
} phi_range;
typedef struct {
    phi_range expand, project, se;  // project: after squeeze-excite; se: before it
} phi_ranges;

typedef struct {
    int32_t in_channels;  // up to 4 with a stem; any number without one
    int32_t stem_width;   // 0: the first block reads the image
    int32_t stem_kernel, stem_stride, activation;
    int32_t symmetric;  // 1: (k - 1) / 2 on each side; 0: TF's SAME, the odd pixel after
    int32_t block_count, head_width, num_classes, threads;
    const float *stem_w, *stem_b, *head_w, *head_b, *classifier_w, *classifier_b;
    const phi_block *blocks;
    const phi_ranges *ranges;  // of each block, and then of the head (project); null: nothing runs in int8. Only level avx512_vnni reads it
} phi_network;

typedef struct phi_engine phi_engine;

PHI_API int phi_abi(void);
// 0 where the system permits the instructions of this library; 1 with the reason in `error`. Once before the first phi_create.
PHI_API int phi_permit(char *error, int error_size);
// Null with the reason in `error` where the memory or the threads can't be had.
PHI_API phi_engine *phi_create(const phi_network *network, char *error, int error_size);
// images [batch][in_channels][height][width] -> logits [batch][num_classes], embedding [batch][features],
// features [batch][features][h][w]; each output may be null. 0, or 1 with the reason in `error`.
PHI_API int phi_run(phi_engine *engine, const float *images, int batch, int height, int width, float *logits, float *embedding,
                    float *features, char *error, int error_size);
PHI_API int64_t phi_bytes(phi_engine *engine);       // prepacked weights and working memory held now
PHI_API int phi_wide_blocks(phi_engine *engine);     // blocks that left half precision because they overflowed or were told to
PHI_API void phi_destroy(phi_engine *engine);        // joins the workers
