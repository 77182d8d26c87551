// phiscale's training kernels as plain C functions: no version of torch is compiled in.
//
// One source, compiled once per instruction set (setup.py); kernels/library.py opens the one for this processor. Threads are torch's
// own where its OpenMP runtime was handed over (set_parallel). Maps are channels last; `half`: bfloat16, else float.
#include "depthwise.h"
#include "norm.h"

#define API extern "C" __attribute__((visibility("default")))

API int version() { return 2; }
API int lanes() { return LANES; }
API void set_parallel(void* gomp_parallel) { team = reinterpret_cast<Parallel>(gomp_parallel); }

// map: n, hw, c
API void norm_moments(const int64_t* map, int half, const void* x, float* mean, float* var, int threads) {
  Map m{map[0], map[1], map[2]};
  if (half) moments(m, (const bf16*)x, mean, var, threads);
  else moments(m, (const float*)x, mean, var, threads);
}

API void norm_pool(const int64_t* map, int half, const void* x, const float* scale, const float* shift, int act, float* pooled, int threads) {
  Map m{map[0], map[1], map[2]};
  Norm norm{scale, shift, nullptr, nullptr, act};
  if (half) pool(m, (const bf16*)x, norm, pooled, threads);
  else pool(m, (const float*)x, norm, pooled, threads);
}

API void norm_apply(const int64_t* map, int half, const void* x, const float* scale, const float* shift, int act, const float* gate,
                    const void* residual, void* y, int threads) {
  Map m{map[0], map[1], map[2]};
  Norm norm{scale, shift, nullptr, nullptr, act};
  if (half) apply(m, (const bf16*)x, norm, gate, (const bf16*)residual, (bf16*)y, threads);
  else apply(m, (const float*)x, norm, gate, (const float*)residual, (float*)y, threads);
}

API void norm_sums(const int64_t* map, int half, const void* x, const void* g, const float* scale, const float* shift, const float* mean,
                   const float* rstd, int act, int gated, float* out, int threads) {
  Map m{map[0], map[1], map[2]};
  Norm norm{scale, shift, mean, rstd, act};
  if (half) sums(m, (const bf16*)x, (const bf16*)g, norm, gated, out, threads);
  else sums(m, (const float*)x, (const float*)g, norm, gated, out, threads);
}

API void norm_apply_backward(const int64_t* map, int half, const void* x, const void* g, const float* scale, const float* shift,
                             const float* mean, int act, const float* gate, const float* more, const float* fixed, const float* slant,
                             void* dx, int threads) {
  Map m{map[0], map[1], map[2]};
  Norm norm{scale, shift, mean, nullptr, act};
  if (half) apply_backward(m, (const bf16*)x, (const bf16*)g, norm, gate, more, fixed, slant, (bf16*)dx, threads);
  else apply_backward(m, (const float*)x, (const float*)g, norm, gate, more, fixed, slant, (float*)dx, threads);
}

// shape: n, h, w, c, oh, ow, top, left.  x (n, h, w, c), y (n, oh, ow, c), weight (c, 1, k, k) float. 0 comes back for other kernels.
API int depthwise_forward(const int64_t* shape, int kernel, int stride, int half, const void* x, const float* scale, const float* shift,
                          int act, const float* weight, void* y, float* mean, float* var, int threads) {
  Shape s;
  memcpy(&s, shape, sizeof s);
  Norm norm{scale, shift, nullptr, nullptr, act};
  return choose(kernel, stride, [&]<int K, int S>() {
    if (half) forward<bf16, K, S>(s, (const bf16*)x, norm, weight, (bf16*)y, mean, var, threads);
    else forward<float, K, S>(s, (const float*)x, norm, weight, (float*)y, mean, var, threads);
  });
}

API int depthwise_backward(const int64_t* shape, int kernel, int stride, int half, const void* g, const void* x, const float* scale,
                           const float* shift, const float* mean, const float* rstd, int act, const float* weight, void* dx, float* dw,
                           float* sums, int threads) {
  Shape s;
  memcpy(&s, shape, sizeof s);
  Norm norm{scale, shift, mean, rstd, act};
  return choose(kernel, stride, [&]<int K, int S>() {
    if (half) backward<bf16, K, S>(s, (const bf16*)g, (const bf16*)x, norm, weight, (bf16*)dx, dw, sums, threads);
    else backward<float, K, S>(s, (const float*)g, (const float*)x, norm, weight, (float*)dx, dw, sums, threads);
  });
}
