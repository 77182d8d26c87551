// Depthwise convolution over channels-last tensors: forward, and all three gradients in one sweep.
//
// One source, compiled once per instruction set (setup.py); kernels/library.py opens the one for this processor. Plain C, so
// no version of torch is compiled in; threads are torch's own where its OpenMP runtime was handed over (set_parallel).
//
// A task takes LANES channels of an image and copies a few rows of it into a panel with the zero padding around it. So the inner
// loops know no edges, no channel stride, no half precision and no asymmetric padding. Sums are made in an order that depends on
// the shapes alone: results do not change with the number of threads.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

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
constexpr int64_t PANEL = 128 * 1024 / sizeof(float);  // a panel stays well inside a core's second-level cache
constexpr int CHUNKS = 8;  // partial sums of the weight's gradient, each over a part of the batch

typedef float V __attribute__((vector_size(LANES * 4)));
typedef uint32_t U __attribute__((vector_size(LANES * 4)));
typedef uint16_t H __attribute__((vector_size(LANES * 2)));
struct bf16 { uint16_t bits; };

template <class A, class B> inline A as(B b) { static_assert(sizeof(A) == sizeof(B)); A a; memcpy(&a, &b, sizeof a); return a; }
inline float widen(float v) { return v; }
inline float widen(bf16 v) { return as<float>(uint32_t(v.bits) << 16); }
inline V read(const float* p) { V v; memcpy(&v, p, sizeof v); return v; }
inline V read(const bf16* p) { H h; memcpy(&h, p, sizeof h); return as<V>(__builtin_convertvector(h, U) << 16); }
template <class T> inline V read(const T* p, int n) {
  if (n == LANES) return read(p);
  V v{};
  for (int i = 0; i < n; i++) v[i] = widen(p[i]);
  return v;
}
inline void write(float* p, V v, int n) {
  if (n == LANES) memcpy(p, &v, sizeof v);
  else for (int i = 0; i < n; i++) p[i] = v[i];
}
inline void write(bf16* p, V v, int n) {  // to nearest, ties to even; NaN stays NaN
  U u = as<U>(v), rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16, nan = (u >> 16) | 0x40;
  H h = __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded, H);
  if (n == LANES) memcpy(p, &h, sizeof h);
  else for (int i = 0; i < n; i++) p[i].bits = h[i];
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

struct Shape { int64_t n, h, w, c, oh, ow, top, left; };

// the gradient that reaches the convolution's output, behind an activation that clamps to [0, high]; without one, y is null
template <class T> inline V passed(const T* g, const T* y, float high, int n) {
  V v = read(g, n);
  if (!y) return v;
  V o = read(y, n);
  return as<V>(as<U>(v) & as<U>((o > 0.0f) & (o < high)));
}

// rows [row, row + rows) and columns [col, col + cols) of an image of (h, w) pixels, zero outside
template <class F> void pack(float* to, int64_t row, int64_t rows, int64_t col, int64_t cols, int64_t h, int64_t w, F pixel) {
  int64_t from = std::max<int64_t>(0, -col), until = std::max(from, std::min(cols, w - col));
  for (int64_t r = 0; r < rows; r++, to += cols * LANES) {
    bool inside = row + r >= 0 && row + r < h;
    int64_t a = inside ? from : cols, z = inside ? until : cols;
    memset(to, 0, size_t(a) * LANES * 4);
    for (int64_t c = a; c < z; c++) write(to + c * LANES, pixel((row + r) * w + col + c), LANES);
    memset(to + z * LANES, 0, size_t(cols - z) * LANES * 4);
  }
}

// out[r][c] = bias + sum of weight[i][j] * panel[r * S + i][c * S + j], clamped to [low, high]
template <int NI, int NJ, int S, class T>
void correlate(const float* panel, int64_t pitch, const V* weight, V bias, float low, float high, bool clamp, T* out, int64_t down,
               int64_t right, int64_t rows, int64_t cols, int n) {
  constexpr int Q = 4;  // columns at a time: as many independent sums as hide the latency of a multiply-add
  auto finish = [&](V v, T* p) {
    if (clamp) { v = v > low ? v : V{} + low; v = v < high ? v : V{} + high; }
    write(p, v, n);
  };
  for (int64_t r = 0; r < rows; r++) {
    const float* line = panel + r * S * pitch * LANES;
    T* p = out + r * down;
    int64_t c = 0;
    for (; c + Q <= cols; c += Q) {
      V sum[Q];
      for (int q = 0; q < Q; q++) sum[q] = bias;
#pragma GCC unroll 7
      for (int i = 0; i < NI; i++)
#pragma GCC unroll 7
        for (int j = 0; j < NJ; j++)
#pragma GCC unroll 4
          for (int q = 0; q < Q; q++) sum[q] += weight[i * NJ + j] * read(line + (i * pitch + (c + q) * S + j) * LANES);
      for (int q = 0; q < Q; q++) finish(sum[q], p + (c + q) * right);
    }
    for (; c < cols; c++) {
      V sum = bias;
      for (int i = 0; i < NI; i++)
        for (int j = 0; j < NJ; j++) sum += weight[i * NJ + j] * read(line + (i * pitch + c * S + j) * LANES);
      finish(sum, p + c * right);
    }
  }
}

template <int K> void taps(V* to, const float* weight, int64_t c, int n) {  // (C, 1, K, K) -> K * K vectors of channels
  for (int k = 0; k < K * K; k++) {
    to[k] = V{};
    for (int i = 0; i < n; i++) to[k][i] = weight[(c + i) * K * K + k];
  }
}

template <class T, int K, int S>
void forward(const Shape& s, const T* x, const float* weight, const float* bias, float low, float high, bool clamp, T* y, int threads) {
  int64_t blocks = (s.c + LANES - 1) / LANES, cols = (s.ow - 1) * S + K;
  int64_t tile = std::clamp<int64_t>((PANEL / (cols * LANES) - K) / S + 1, 1, s.oh), rows = (tile - 1) * S + K;
  run(threads, s.n * blocks, [&](int64_t task) {
    int64_t image = task / blocks, c = task % blocks * LANES;
    int n = int(std::min<int64_t>(LANES, s.c - c));
    const T* from = x + image * s.h * s.w * s.c + c;
    T* to = y + image * s.oh * s.ow * s.c + c;
    V w[K * K];
    taps<K>(w, weight, c, n);
    float* panel = scratch(rows * cols * LANES);
    for (int64_t o = 0; o < s.oh; o += tile) {
      int64_t here = std::min(tile, s.oh - o);
      pack(panel, o * S - s.top, (here - 1) * S + K, -s.left, cols, s.h, s.w, [&](int64_t at) { return read(from + at * s.c, n); });
      correlate<K, K, S>(panel, cols, w, bias ? read(bias + c, n) : V{}, low, high, clamp, to + o * s.ow * s.c, s.ow * s.c, s.c, here, s.ow, n);
    }
  });
}

// `sums` (K * K + 1 vectors: the weight's gradient, then the bias's) += of one image
template <class T, int K, int S, class G> void weight_gradient(const Shape& s, const T* x, int n, G gradient, V* sums) {
  constexpr int LINES = std::max(1, std::min(K, (REGISTERS - 6) / K));  // kernel rows whose sums fit the registers
  int64_t cols = (s.ow - 1) * S + K, tile = std::clamp<int64_t>((PANEL / (cols * LANES) - K) / S + 1, 1, s.oh);
  float* panel = scratch(((tile - 1) * S + K) * cols * LANES);
  for (int64_t o = 0; o < s.oh; o += tile) {
    int64_t here = std::min(tile, s.oh - o);
    pack(panel, o * S - s.top, (here - 1) * S + K, -s.left, cols, s.h, s.w, [&](int64_t at) { return read(x + at * s.c, n); });
    auto sweep = [&]<int I, int N>() {
      V sum[N * K] = {}, whole{};
      for (int64_t r = 0; r < here; r++) {
        const float* line = panel + (r * S + I) * cols * LANES;
        for (int64_t c = 0; c < s.ow; c++, line += S * LANES) {
          V g = gradient((o + r) * s.ow + c);
          if (I == 0) whole += g;
#pragma GCC unroll 7
          for (int i = 0; i < N; i++)
#pragma GCC unroll 7
            for (int j = 0; j < K; j++) sum[i * K + j] += g * read(line + (i * cols + j) * LANES);
        }
      }
      for (int k = 0; k < N * K; k++) sums[I * K + k] += sum[k];
      sums[K * K] += whole;
    };
    [&]<int... P>(std::integer_sequence<int, P...>) {
      (sweep.template operator()<P * LINES, std::min(LINES, K - P * LINES)>(), ...);
    }(std::make_integer_sequence<int, (K + LINES - 1) / LINES>{});
  }
}

// an input pixel S * t + p gathers the outputs that used it through the taps i = phase + S * k: per p an ordinary correlation
template <class T, int K, int S, class G> void input_gradient(const Shape& s, const V* w, int n, G gradient, T* dx) {
  constexpr int HALO = (K - 1) / S;
  int64_t below = (S - 1 + s.top) / S, beside = (S - 1 + s.left) / S;
  int64_t high = (s.h + S - 1) / S, cols = (s.w + S - 1) / S + HALO + beside;
  int64_t tile = std::clamp<int64_t>(PANEL / (cols * LANES) - HALO - below, 1, high);
  float* panel = scratch((tile + HALO + below) * cols * LANES);
  for (int64_t t = 0; t < high; t += tile) {
    int64_t here = std::min(tile, high - t);
    pack(panel, t - HALO, here + HALO + below, -HALO, cols, s.oh, s.ow, gradient);
    for (int64_t py = 0; py < S; py++)
      for (int64_t px = 0; px < S; px++) {
        auto phase = [&]<int A, int B>() {
          constexpr int NI = (K - A + S - 1) / S, NJ = (K - B + S - 1) / S;
          V part[NI * NJ];
          for (int i = 0; i < NI; i++)
            for (int j = 0; j < NJ; j++) part[i * NJ + j] = w[(A + S * (NI - 1 - i)) * K + B + S * (NJ - 1 - j)];
          int64_t up = (py + s.top) / S + HALO - (NI - 1), aside = (px + s.left) / S + HALO - (NJ - 1);
          int64_t rows = std::min(here, (s.h - py + S - 1) / S - t), width = (s.w - px + S - 1) / S;
          correlate<NI, NJ, 1>(panel + (up * cols + aside) * LANES, cols, part, V{}, 0, 0, false, dx + ((t * S + py) * s.w + px) * s.c,
                               S * s.w * s.c, S * s.c, rows, width, n);
        };
        int64_t a = (py + s.top) % S, b = (px + s.left) % S;
        if constexpr (S == 1) phase.template operator()<0, 0>();
        else if (!a && !b) phase.template operator()<0, 0>();
        else if (!a) phase.template operator()<0, 1>();
        else if (!b) phase.template operator()<1, 0>();
        else phase.template operator()<1, 1>();
      }
  }
}

template <class T, int K, int S>
void backward(const Shape& s, const T* g, const T* y, float high, const T* x, const float* weight, T* dx, float* dw, float* db, int threads) {
  constexpr int SUMS = K * K + 1;
  int64_t blocks = (s.c + LANES - 1) / LANES, chunks = std::min<int64_t>(CHUNKS, s.n);
  std::vector<float> partial(dw ? size_t(chunks * blocks * SUMS * LANES) : 0);
  run(threads, chunks * blocks, [&](int64_t task) {
    int64_t chunk = task / blocks, c = task % blocks * LANES;
    int n = int(std::min<int64_t>(LANES, s.c - c));
    V w[K * K], sums[SUMS] = {};
    taps<K>(w, weight, c, n);
    for (int64_t image = s.n * chunk / chunks; image < s.n * (chunk + 1) / chunks; image++) {
      int64_t in = image * s.h * s.w * s.c + c, out = image * s.oh * s.ow * s.c + c;
      auto gradient = [&](int64_t at) { return passed(g + out + at * s.c, y ? y + out + at * s.c : nullptr, high, n); };
      if (dw) weight_gradient<T, K, S>(s, x + in, n, gradient, sums);
      if (dx) input_gradient<T, K, S>(s, w, n, gradient, dx + in);
    }
    if (dw) memcpy(partial.data() + task * SUMS * LANES, sums, sizeof sums);
  });
  if (!dw) return;
  for (int64_t c = 0; c < s.c; c++)
    for (int k = 0; k < SUMS; k++) {
      float sum = 0;
      for (int64_t chunk = 0; chunk < chunks; chunk++) sum += partial[size_t(((chunk * blocks + c / LANES) * SUMS + k) * LANES + c % LANES)];
      (k < K * K ? dw[c * K * K + k] : db[c]) = sum;
    }
}

template <class F> bool choose(int kernel, int stride, F f) {
  switch (kernel * 10 + stride) {
    case 31: f.template operator()<3, 1>(); return true;
    case 32: f.template operator()<3, 2>(); return true;
    case 51: f.template operator()<5, 1>(); return true;
    case 52: f.template operator()<5, 2>(); return true;
    case 71: f.template operator()<7, 1>(); return true;
    case 72: f.template operator()<7, 2>(); return true;
  }
  return false;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API int version() { return 1; }
API int lanes() { return LANES; }
API void set_parallel(void* gomp_parallel) { team = reinterpret_cast<Parallel>(gomp_parallel); }

// shape: n, h, w, c, oh, ow, top, left.  x (n, h, w, c), y (n, oh, ow, c): float, or bfloat16 with half.  weight (c, 1, k, k), bias (c): float.
API int depthwise_forward(const int64_t* shape, int kernel, int stride, int half, const void* x, const float* weight, const float* bias, int clamp,
                          float low, float high, void* y, int threads) {
  Shape s;
  memcpy(&s, shape, sizeof s);
  return choose(kernel, stride, [&]<int K, int S>() {
    if (half) forward<bf16, K, S>(s, (const bf16*)x, weight, bias, low, high, clamp, (bf16*)y, threads);
    else forward<float, K, S>(s, (const float*)x, weight, bias, low, high, clamp, (float*)y, threads);
  });
}

// g: gradient of y. With y given, y came out of a clamp to [0, high]. dx, or dw and db (float), may be null.
API int depthwise_backward(const int64_t* shape, int kernel, int stride, int half, const void* g, const void* y, float high, const void* x,
                           const float* weight, void* dx, float* dw, float* db, int threads) {
  Shape s;
  memcpy(&s, shape, sizeof s);
  return choose(kernel, stride, [&]<int K, int S>() {
    if (half) backward<bf16, K, S>(s, (const bf16*)g, (const bf16*)y, high, (const bf16*)x, weight, (bf16*)dx, dw, db, threads);
    else backward<float, K, S>(s, (const float*)g, (const float*)y, high, (const float*)x, weight, (float*)dx, dw, db, threads);
  });
}
