// Depthwise convolution over channels-last maps, with the norm and activation before it, forward and all gradients.
//
// A task is an image, or some images, and as many channels as a cache line holds. Rows of its input go into a ring of as many rows as
// the kernel has, widened to float, normalised, activated, and padded with zeros: so each pixel is read and activated once, the inner
// loops know no edges, no channel stride, no half precision and no asymmetric padding, and all they touch stays in the first cache.
// Sums are made in an order that depends on the shapes alone: results do not change with the number of threads.
#pragma once
#include <type_traits>
#include <utility>

#include "simd.h"

namespace {

struct Shape { int64_t n, h, w, c, oh, ow, top, left; };

constexpr int CHUNKS = 16;  // partial sums of the weight's gradient, each over a part of the batch

constexpr int MOST = 8;  // blocks of a task

// Blocks of channels that go down a map side by side: all of a cache line's, and as many more as keep their rings near the first cache,
// since memory hands out lines in a row more readily than one here and one there.
template <class T> int group(int64_t ring) {
  constexpr int LINE = std::max(1, 64 / (LANES * int(sizeof(T))));
  return int(std::clamp<int64_t>(64 * 1024 / (ring * int64_t(sizeof(V))), LINE, std::max(LINE, MOST))) / LINE * LINE;
}

// a row of pixels as the convolution sees it; `ahead` numbers further on is what will be asked for next
template <class T> void load(V* to, const T* from, int64_t pixels, int64_t c, int n, const Norm& norm, int64_t at, int64_t ahead) {
  V scale = norm.scale ? read(norm.scale + at, n) : V{}, shift = norm.scale ? read(norm.shift + at, n) : V{};
  auto sweep = [&]<int A>(auto lanes) {
#pragma GCC unroll 2
    for (int64_t i = 0; i < pixels; i++) {
      fetch(from + i * c + ahead);
      V v = read(from + i * c, lanes);
      if constexpr (A < 0) to[i] = v;
      else to[i] = activate<A, sizeof(T) == 4>(v * scale + shift);
    }
  };
  auto by = [&](auto lanes) {
    if (norm.scale) with_act(norm.act, [&]<int A>() { sweep.template operator()<A>(lanes); });
    else sweep.template operator()<-1>(lanes);
  };
  if (n == LANES) by(std::integral_constant<int, LANES>{});
  else by(n);
}

// out[q * step] = sum of weight[i][j] * rows[i][q * S + j], for q in [c, c + Q): Q independent sums hide the latency of a multiply-add
template <int NI, int NJ, int S, int Q> inline void correlate_at(const V* const* rows, const V* weight, V* out, int64_t step, int64_t c) {
  V sum[Q] = {};
#pragma GCC unroll 7
  for (int i = 0; i < NI; i++) {
    const V* row = rows[i] + c * S;
#pragma GCC unroll 7
    for (int j = 0; j < NJ; j++) {
      V w = weight[i * NJ + j];
#pragma GCC unroll 8
      for (int q = 0; q < Q; q++) sum[q] += w * row[q * S + j];
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < Q; q++) out[(c + q) * step] = sum[q];
}
template <int NI, int NJ, int S> void correlate(const V* const* rows, const V* weight, V* out, int64_t step, int64_t cols) {
  constexpr int Q = REGISTERS >= 32 ? 8 : 4, R = Q / 2;
  int64_t c = 0;
  for (; c + Q <= cols; c += Q) correlate_at<NI, NJ, S, Q>(rows, weight, out, step, c);
  if (c < cols && cols >= Q) return correlate_at<NI, NJ, S, Q>(rows, weight, out, step, cols - Q);  // some a second time
  for (; c + R <= cols; c += R) correlate_at<NI, NJ, S, R>(rows, weight, out, step, c);
  if (c < cols && cols >= R) return correlate_at<NI, NJ, S, R>(rows, weight, out, step, cols - R);
  for (; c < cols; c++) correlate_at<NI, NJ, S, 1>(rows, weight, out, step, c);
}

// sums[i][j] += of every output pixel of a row: g * what tap (i, j) saw
template <int K, int S> void correlate_weight(const V* const* rows, const V* g, V* sums, int64_t cols) {
  constexpr int LINES = std::max(1, std::min(K, (REGISTERS - 4) / K));  // kernel rows whose sums fit the registers
  auto sweep = [&]<int I, int N>() {
    V sum[N * K];
#pragma GCC unroll 49
    for (int k = 0; k < N * K; k++) sum[k] = sums[I * K + k];
    for (int64_t c = 0; c < cols; c++) {
      V v = g[c];
#pragma GCC unroll 7
      for (int i = 0; i < N; i++)
#pragma GCC unroll 7
        for (int j = 0; j < K; j++) sum[i * K + j] += v * rows[I + i][c * S + j];
    }
#pragma GCC unroll 49
    for (int k = 0; k < N * K; k++) sums[I * K + k] = sum[k];
  };
  [&]<int... P>(std::integer_sequence<int, P...>) {
    (sweep.template operator()<P * LINES, std::min(LINES, K - P * LINES)>(), ...);
  }(std::make_integer_sequence<int, (K + LINES - 1) / LINES>{});
}

template <int K> void taps(V* to, const float* weight, int64_t c, int n) {  // (C, 1, K, K) -> K * K vectors of channels
  for (int k = 0; k < K * K; k++) {
    to[k] = V{};
    for (int i = 0; i < n; i++) to[k][i] = weight[(c + i) * K * K + k];
  }
}

// The rows of one map and block of channels that a sweep downwards needs at a time; zeros beyond the map.
template <class T> struct Ring {
  V* memory;            // `count` rows of `pitch` vectors and one of zeros
  int64_t count, pitch, before, width, height, next;
  const T* map;         // at the block's first channel
  int64_t c, at;
  int n;
  const Norm* norm;

  void begin(V* where, int64_t rows, int64_t cols, int64_t left, int64_t w, int64_t h, const T* from, int64_t channels, int64_t channel, int lanes,
             const Norm& by) {
    memory = where, count = rows, pitch = cols, before = left, width = std::min(w, cols - left), height = h, next = 0;
    map = from, c = channels, at = channel, n = lanes, norm = &by;
    std::fill(memory, memory + (count + 1) * pitch, V{});
    full = w;
  }
  int64_t full;
  const V* row(int64_t r) {  // in rising order, never further back than `count`
    if (r < 0 || r >= height) return memory + count * pitch;
    for (; next <= r; next++)
      if (next > r - count) load(memory + next % count * pitch + before, map + next * full * c, width, c, n, *norm, at, full * c);
    return memory + r % count * pitch;
  }
};

// y, and where mean is given mean and variance of its channels
template <class T, int K, int S>
void forward(const Shape& s, const T* x, const Norm& norm, const float* weight, T* y, float* mean, float* var, int threads) {
  int64_t cols = (s.ow - 1) * S + K, pitch = std::max(cols, s.left + 1);
  const int G = group<T>((K + 1) * pitch);
  int64_t width = LANES * G, groups = (s.c + width - 1) / width;
  std::vector<float> partial(mean ? size_t(s.n * 2 * s.c) : 0);
  run(threads, s.n * groups, [&](int64_t task) {
    int64_t image = task / groups, first = task % groups * width;
    int blocks = int(std::min<int64_t>(G, (s.c - first + LANES - 1) / LANES));
    V* memory = reinterpret_cast<V*>(scratch((G * ((K + 1) * pitch) + s.ow) * LANES));
    V* out = memory + G * (K + 1) * pitch;
    Ring<T> ring[MOST];
    V w[MOST][K * K], sum[MOST] = {}, square[MOST] = {}, origin[MOST] = {};
    for (int b = 0; b < blocks; b++) {
      int64_t c = first + b * LANES;
      int n = int(std::min<int64_t>(LANES, s.c - c));
      taps<K>(w[b], weight, c, n);
      ring[b].begin(memory + b * (K + 1) * pitch, K, pitch, s.left, s.w, s.h, x + image * s.h * s.w * s.c + c, s.c, c, n, norm);
    }
    for (int64_t o = 0; o < s.oh; o++)
      for (int b = 0; b < blocks; b++) {
        const V* rows[K];
        for (int i = 0; i < K; i++) rows[i] = ring[b].row(o * S - s.top + i);
        correlate<K, K, S>(rows, w[b], out, 1, s.ow);
        T* to = y + (image * s.oh + o) * s.ow * s.c + ring[b].at;
        int n = ring[b].n;
        if (n == LANES) for (int64_t i = 0; i < s.ow; i++) claim(to + (s.ow + i) * s.c), write(to + i * s.c, out[i], LANES);
        else for (int64_t i = 0; i < s.ow; i++) write(to + i * s.c, out[i], n);
        if (!mean) continue;
        if (o == 0) origin[b] = out[0];
        V s0{}, s1{}, q0{}, q1{};
        int64_t i = 0;
        for (; i + 2 <= s.ow; i += 2) {
          V d = out[i] - origin[b], e = out[i + 1] - origin[b];
          s0 += d, s1 += e, q0 += d * d, q1 += e * e;
        }
        if (i < s.ow) { V d = out[i] - origin[b]; s0 += d, q0 += d * d; }
        sum[b] += s0 + s1, square[b] += q0 + q1;
      }
    if (!mean) return;
    float* own = partial.data() + image * 2 * s.c;
    for (int b = 0; b < blocks; b++) {
      V off = sum[b] / float(s.oh * s.ow), far = square[b] - off * sum[b];
      write(own + ring[b].at, origin[b] + off, ring[b].n);
      write(own + s.c + ring[b].at, far < 0.0f ? V{} : far, ring[b].n);
    }
  });
  if (mean) merge(partial, std::vector<int64_t>(size_t(s.n), s.oh * s.ow), s.c, mean, var);
}

// Gradients. With a norm, dx becomes act' times the gradient of the activated input, and `sums` (2, c) hold what `apply_backward`
// needs of it; what is not wanted is null.
template <class T, int K, int S>
void backward(const Shape& s, const T* g, const T* x, const Norm& norm, const float* weight, T* dx, float* dw, float* sums, int threads) {
  constexpr int HALO = (K - 1) / S, OF = K * K + 2;
  const Norm plain{};
  int64_t cols = (s.ow - 1) * S + K, pitch = std::max(cols, s.left + 1), wide = (s.w + S - 1) / S + HALO + (S - 1 + s.left) / S;
  const int G = group<T>((K + 1) * pitch);
  int64_t width = LANES * G, groups = (s.c + width - 1) / width, chunks = std::min<int64_t>(CHUNKS, s.n);
  std::vector<float> partial(size_t(chunks * OF * s.c));
  run(threads, chunks * groups, [&](int64_t task) {
    int64_t chunk = task / groups, first = task % groups * width;
    int blocks = int(std::min<int64_t>(G, (s.c - first + LANES - 1) / LANES));
    int64_t each = (K + 1) * pitch + s.ow, other = (HALO + 2) * wide;
    V* memory = reinterpret_cast<V*>(scratch((G * std::max(each, other) + s.w + S) * LANES));
    V *out = memory + G * std::max(each, other), flipped[MOST][K * K], total[MOST][OF] = {};
    for (int b = 0; b < blocks; b++) {
      V w[K * K];
      taps<K>(w, weight, first + b * LANES, int(std::min<int64_t>(LANES, s.c - first - b * LANES)));
      V* to = flipped[b];
      for (int i = 0; i < S; i++)
        for (int j = 0; j < S; j++)
          for (int k = (K - i + S - 1) / S - 1; k >= 0; k--)
            for (int l = (K - j + S - 1) / S - 1; l >= 0; l--) *to++ = w[(i + S * k) * K + j + S * l];
    }
    for (int64_t image = s.n * chunk / chunks; image < s.n * (chunk + 1) / chunks; image++) {
      int64_t in = image * s.h * s.w * s.c, from = image * s.oh * s.ow * s.c;
      Ring<T> ring[MOST];
      if (dw) {
        for (int b = 0; b < blocks; b++) {
          int64_t c = first + b * LANES;
          ring[b].begin(memory + b * each, K, pitch, s.left, s.w, s.h, x + in + c, s.c, c, int(std::min<int64_t>(LANES, s.c - c)), norm);
        }
        for (int64_t o = 0; o < s.oh; o++)
          for (int b = 0; b < blocks; b++) {
            const V* rows[K];
            for (int i = 0; i < K; i++) rows[i] = ring[b].row(o * S - s.top + i);
            V* line = memory + b * each + (K + 1) * pitch;
            load(line, g + from + o * s.ow * s.c + ring[b].at, s.ow, s.c, ring[b].n, plain, 0, s.ow * s.c);
            correlate_weight<K, S>(rows, line, total[b], s.ow);
          }
      }
      if (!dx) continue;
      for (int b = 0; b < blocks; b++) {
        int64_t c = first + b * LANES;
        ring[b].begin(memory + b * other, HALO + 1, wide, HALO, s.ow, s.oh, g + from + c, s.c, c, int(std::min<int64_t>(LANES, s.c - c)), plain);
      }
      for (int64_t h = 0; h < s.h; h++)
        for (int b = 0; b < blocks; b++) {
          // an input pixel S * t + p gathers the outputs that used it through the taps phase + S * k: per p an ordinary correlation
          for (int64_t p = 0; p < std::min<int64_t>(S, s.w); p++) {
            auto phase = [&]<int A, int B>() {
              constexpr int NI = (K - A + S - 1) / S, NJ = (K - B + S - 1) / S;
              constexpr int FULL = (K + S - 1) / S;  // taps of phase 0
              const V* part = flipped[b] + (A ? FULL * K : 0) + (B ? NI * FULL : 0);
              const V* rows[NI];
              for (int i = 0; i < NI; i++)
                rows[i] = ring[b].row((h + s.top) / S - (NI - 1) + i) + (p + s.left) / S + HALO - (NJ - 1);
              correlate<NI, NJ, 1>(rows, part, out + p, S, (s.w - p + S - 1) / S);
            };
            int64_t i = (h + s.top) % S, j = (p + s.left) % S;
            if constexpr (S == 1) phase.template operator()<0, 0>();
            else if (!i && !j) phase.template operator()<0, 0>();
            else if (!i) phase.template operator()<0, 1>();
            else if (!j) phase.template operator()<1, 0>();
            else phase.template operator()<1, 1>();
          }
          int64_t at = in + h * s.w * s.c + ring[b].at;
          int n = ring[b].n;
          if (!norm.scale) {
            for (int64_t i = 0; i < s.w; i++) write(dx + at + i * s.c, out[i], n);
            continue;
          }
          V scale = read(norm.scale + ring[b].at, n), shift = read(norm.shift + ring[b].at, n), mean = read(norm.mean + ring[b].at, n);
          V one{}, two{};
          with_act(norm.act, [&]<int A>() {
            auto sweep = [&](auto lanes) {
#pragma GCC unroll 2
              for (int64_t i = 0; i < s.w; i++) {
                fetch(x + at + (s.w + i) * s.c), claim(dx + at + (s.w + i) * s.c);
                V v = read(x + at + i * s.c, lanes), z = v * scale + shift, d = out[i] * slope<A, sizeof(T) == 4>(z);
                one += d, two += d * (v - mean);
                write(dx + at + i * s.c, d, lanes);
              }
            };
            if (n == LANES) sweep(std::integral_constant<int, LANES>{});
            else sweep(n);
          });
          total[b][K * K] += one, total[b][K * K + 1] += two * read(norm.rstd + ring[b].at, n);
        }
    }
    for (int b = 0; b < blocks; b++)
      for (int k = 0; k < OF; k++) {
        int64_t c = first + b * LANES;
        write(partial.data() + (chunk * OF + k) * s.c + c, total[b][k], int(std::min<int64_t>(LANES, s.c - c)));
      }
  });
  for (int64_t c = 0; c < s.c; c++)
    for (int k = 0; k < OF; k++) {
      double sum = 0;
      for (int64_t chunk = 0; chunk < chunks; chunk++) sum += partial[size_t((chunk * OF + k) * s.c + c)];
      if (k < K * K) { if (dw) dw[c * K * K + k] = float(sum); }
      else if (sums) sums[(k - K * K) * s.c + c] = float(sum);
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
