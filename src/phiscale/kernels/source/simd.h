// Vectors of LANES channels, numbers in memory as float or bfloat16, activations, and torch's team of threads.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int LANES = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int LANES = 4, REGISTERS = 32;
#else
constexpr int LANES = 4, REGISTERS = 16;
#endif

typedef float V __attribute__((vector_size(LANES * 4)));
typedef uint32_t U __attribute__((vector_size(LANES * 4)));
typedef uint16_t H __attribute__((vector_size(LANES * 2)));
struct bf16 { uint16_t bits; };

template <class A, class B> inline A as(B b) { static_assert(sizeof(A) == sizeof(B)); A a; memcpy(&a, &b, sizeof a); return a; }
inline float widen(float v) { return v; }
inline float widen(bf16 v) { return as<float>(uint32_t(v.bits) << 16); }
// the line at p into the first cache; for writing it
inline void fetch(const void* p) { __builtin_prefetch(p, 0, 3); }
inline void claim(void* p) { __builtin_prefetch(p, 1, 3); }
inline V all(float v) { return V{} + v; }

// the first n of LANES numbers at p; zeros after them
inline V read(const float* p, int n) {
  V v{};
  if (n == LANES) memcpy(&v, p, sizeof v);
#if defined(__AVX512F__)
  else v = V(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p));
#else
  else for (int i = 0; i < n; i++) v[i] = p[i];
#endif
  return v;
}
inline V read(const bf16* p, int n) {
  H h{};
  if (n == LANES) memcpy(&h, p, sizeof h);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  else h = H(_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p));
#else
  else for (int i = 0; i < n; i++) h[i] = p[i].bits;
#endif
  return as<V>(__builtin_convertvector(h, U) << 16);
}
inline void write(float* p, V v, int n) {
  if (n == LANES) memcpy(p, &v, sizeof v);
#if defined(__AVX512F__)
  else _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), __m512(v));
#else
  else for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}
inline H narrow(V v) {  // to nearest, ties to even; NaN stays NaN
#if defined(__AVX512BF16__)
  return as<H>(_mm512_cvtneps_pbh(__m512(v)));
#else
  U u = as<U>(v), rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16, nan = (u >> 16) | 0x40;
  return __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded, H);
#endif
}
inline void write(bf16* p, V v, int n) {
  H h = narrow(v);
  if (n == LANES) memcpy(p, &h, sizeof h);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  else _mm256_mask_storeu_epi16(p, __mmask16((1u << n) - 1), __m256i(h));
#else
  else for (int i = 0; i < n; i++) p[i].bits = h[i];
#endif
}

// 1 / (1 + exp(-z)). Exact to 2 units in the last place; otherwise to 2^-11, which bfloat16 does not notice.
template <bool EXACT> inline V sigmoid(V z) {
  V t = z * -1.44269504f;
#if defined(__AVX512DQ__)
  if (!EXACT) {  // 2^t = 2^(t - floor t) scaled by floor t, which these instructions take themselves, infinities too
    V f = V(_mm512_maskz_reduce_ps(0xffff, __m512(t), _MM_FROUND_TO_NEG_INF));
    V p = ((f * 7.802452e-2f + 2.2606716e-1f) * f + 6.9583354e-1f) * f + 9.9992522e-1f;
    return V(_mm512_maskz_rcp14_ps(0xffff, __m512(V(_mm512_maskz_scalef_ps(0xffff, __m512(p), __m512(t))) + 1.0f)));
  }
#endif
  t = t < -126.0f ? all(-126.0f) : t;
  t = t > 126.0f ? all(126.0f) : t;
  V r = t + 12582912.0f, f = t - (r - 12582912.0f);  // 1.5 * 2^23: the sum's last bits are the nearest integer
  V p;
  if (EXACT) {
    p = all(1.535336188e-4f) * f + 1.339887440e-3f;
    p = p * f + 9.618437357e-3f;
    p = p * f + 5.550332548e-2f;
    p = p * f + 2.402264791e-1f;
    p = p * f + 6.931472028e-1f;
    p = p * f + 1.0f;
  } else {
    p = all(5.517667e-2f) * f + 2.4188708e-1f;
    p = p * f + 6.9326098e-1f;
    p = p * f + 1.0f;
  }
  V d = as<V>((as<U>(r) << 23) + as<U>(p)) + 1.0f;
  return 1.0f / d;
}

enum Act { NONE, RELU, RELU6, HARDSWISH, SILU };

template <int A, bool EXACT> inline V activate(V z) {
  if (A == RELU || A == RELU6) z = z < 0.0f ? V{} : z;
  if (A == RELU6) z = z > 6.0f ? all(6.0f) : z;
  if (A == SILU) z *= sigmoid<EXACT>(z);
  if (A == HARDSWISH) {
    V t = z + 3.0f;
    t = t < 0.0f ? V{} : t;
    z *= (t > 6.0f ? all(6.0f) : t) * (1.0f / 6.0f);
  }
  return z;
}
// the activation in z's place, and its slope comes back
template <int A, bool EXACT> inline V slope(V& z) {
  V one = all(1.0f);
  if (A == NONE) return one;
  V at = z;
  if (A == SILU) {
    V s = sigmoid<EXACT>(at);
    z = at * s;
    return s * (at * (1.0f - s) + 1.0f);
  }
  z = activate<A, EXACT>(z);
  if (A == RELU) return at > 0.0f ? one : V{};
  if (A == RELU6) return at > 0.0f ? (at < 6.0f ? one : V{}) : V{};
  V s = at * (1.0f / 3.0f) + 0.5f;
  return at < -3.0f ? V{} : at > 3.0f ? one : s;
}

// f<activation>()
template <class F> auto with_act(int act, F f) {
  switch (act) {
    case RELU: return f.template operator()<RELU>();
    case RELU6: return f.template operator()<RELU6>();
    case HARDSWISH: return f.template operator()<HARDSWISH>();
    case SILU: return f.template operator()<SILU>();
  }
  return f.template operator()<NONE>();
}

typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel
Parallel team = nullptr;

template <class F> void run(int threads, int64_t tasks, F f) {
  struct Shared { F& f; int64_t tasks; std::atomic<int64_t> next; } shared{f, tasks, {0}};
  auto body = [](void* p) {
    auto& s = *static_cast<Shared*>(p);
    for (int64_t i; (i = s.next.fetch_add(1)) < s.tasks;) s.f(i);
  };
  threads = int(std::min<int64_t>(threads, tasks));
  if (threads < 2) return body(&shared);
  if (team) return team(body, &shared, unsigned(threads), 0);
  std::vector<std::thread> others;
  for (int i = 1; i < threads; i++) others.emplace_back(body, &shared);
  body(&shared);
  for (auto& other : others) other.join();
}

float* scratch(int64_t floats) {  // this thread's, aligned to a cache line
  thread_local std::vector<float> memory;
  if (int64_t(memory.size()) < floats + 16) memory.resize(size_t(floats + 16));
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

// what a batch norm and its activation do to a channel: act(x * scale + shift); without a norm, scale is null
struct Norm { const float *scale, *shift, *mean, *rstd; int act; };

// Mean and variance (over all numbers) of c channels from those of `parts` parts: (parts, 2, c), means and sums of squared distances,
// of `sizes` numbers each. Summed in the parts' order, so no number of threads changes a bit.
inline void merge(const std::vector<float>& partial, const std::vector<int64_t>& sizes, int64_t c, float* mean, float* var) {
  double n = 0;
  for (auto size : sizes) n += double(size);
  for (int64_t k = 0; k < c; k++) {
    double m = 0, s = 0;
    for (size_t p = 0; p < sizes.size(); p++) m += double(sizes[p]) * partial[(2 * p) * size_t(c) + size_t(k)];
    m /= n;
    for (size_t p = 0; p < sizes.size(); p++) {
      double off = partial[(2 * p) * size_t(c) + size_t(k)] - m;
      s += partial[(2 * p + 1) * size_t(c) + size_t(k)] + double(sizes[p]) * off * off;
    }
    mean[k] = float(m);
    var[k] = float(s / n);
  }
}

}  // namespace
