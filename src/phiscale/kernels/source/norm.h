// Batch norm with its activation, a gate for each image's channels, and the residual, in as few passes as the mathematics asks for.
//
// Maps are (n, hw, c), channels last. A task is an image or a part of one; it goes through its pixels in tiles that stay in a core's
// first cache, channel by channel, with all that belongs to the channel in registers; meanwhile the next tile is fetched.
#pragma once
#include <type_traits>

#include "simd.h"

namespace {

struct Map { int64_t n, hw, c; };

constexpr int64_t TILE = 8 * 1024;  // bytes of a tile
constexpr int64_t FEWEST = 16;       // tasks, so that a small batch keeps all threads busy too

struct Cut {  // images in parts
  int64_t parts, hw;
  explicit Cut(const Map& m) : parts(m.n >= FEWEST ? 1 : std::min(m.hw, (FEWEST + m.n - 1) / m.n)), hw(m.hw) {}
  int64_t from(int64_t task) const { return hw * (task % parts) / parts; }
  int64_t until(int64_t task) const { return hw * (task % parts + 1) / parts; }
};

// f(first pixel, pixels, first channel, channels) for every tile of [a, z)
template <class T, class F> inline void tiles(const Map& m, int64_t a, int64_t z, F f) {
  int64_t rows = std::clamp<int64_t>(TILE / (m.c * int64_t(sizeof(T))), 4, 64);
  for (int64_t r = a; r < z; r += rows)
    for (int64_t c = 0; c < m.c; c += LANES) {
      if (c + LANES <= m.c) f(r, std::min(rows, z - r), c, std::integral_constant<int, LANES>{});  // no masks
      else f(r, std::min(rows, z - r), c, int(m.c - c));
    }
}

template <class T> void moments(const Map& m, const T* x, float* mean, float* var, int threads) {
  Cut cut(m);
  int64_t tasks = m.n * cut.parts;
  std::vector<float> partial(size_t(tasks * 2 * m.c));
  std::vector<int64_t> sizes;
  for (int64_t t = 0; t < tasks; t++) sizes.push_back(cut.until(t) - cut.from(t));
  run(threads, tasks, [&](int64_t task) {
    const T* image = x + task / cut.parts * m.hw * m.c;
    float *sums = partial.data() + task * 2 * m.c, *squares = sums + m.c;
    int64_t a = cut.from(task), z = cut.until(task);
    tiles<T>(m, a, z, [&](int64_t r, int64_t rows, int64_t c, auto n) {
      const T* p = image + r * m.c + c;
      V origin = read(x + c, n);  // of the first pixel: near the mean, so that the squares don't cancel
      V s[4] = {}, q[4] = {};
      int64_t i = 0;
      for (; i + 4 <= rows; i += 4)
        for (int k = 0; k < 4; k++) { fetch(p + (i + k + rows) * m.c); V d = read(p + (i + k) * m.c, n) - origin; s[k] += d; q[k] += d * d; }
      for (; i < rows; i++) { V d = read(p + i * m.c, n) - origin; s[0] += d; q[0] += d * d; }
      V sum = (s[0] + s[1]) + (s[2] + s[3]), square = (q[0] + q[1]) + (q[2] + q[3]);
      write(sums + c, read(sums + c, n) + sum, n);
      write(squares + c, read(squares + c, n) + square, n);
    });
    for (int64_t c = 0; c < m.c; c++) {  // to the part's mean, and squared distances from it
      float off = sums[c] / float(z - a);
      squares[c] = std::max(0.0f, squares[c] - off * sums[c]);
      sums[c] = off;
    }
  });
  merge(partial, sizes, m.c, mean, var);
  for (int64_t c = 0; c < m.c; c++) mean[c] += widen(x[c]);
}

// means over each image of act(norm(x)): (n, c)
template <class T> void pool(const Map& m, const T* x, const Norm& norm, float* pooled, int threads) {
  Cut cut(m);
  std::vector<float> partial(size_t(m.n * cut.parts * m.c));
  with_act(norm.act, [&]<int A>() {
    run(threads, m.n * cut.parts, [&](int64_t task) {
      const T* image = x + task / cut.parts * m.hw * m.c;
      float* sums = partial.data() + task * m.c;
      tiles<T>(m, cut.from(task), cut.until(task), [&](int64_t r, int64_t rows, int64_t c, auto n) {
        const T* p = image + r * m.c + c;
        V scale = read(norm.scale + c, n), shift = read(norm.shift + c, n), s[2] = {};
        int64_t i = 0;
        for (; i + 2 <= rows; i += 2)
          for (int k = 0; k < 2; k++) fetch(p + (i + k + rows) * m.c), s[k] += activate<A, sizeof(T) == 4>(read(p + (i + k) * m.c, n) * scale + shift);
        if (i < rows) s[0] += activate<A, sizeof(T) == 4>(read(p + i * m.c, n) * scale + shift);
        write(sums + c, read(sums + c, n) + (s[0] + s[1]), n);
      });
    });
  });
  for (int64_t i = 0; i < m.n; i++)
    for (int64_t c = 0; c < m.c; c++) {
      float sum = 0;
      for (int64_t p = 0; p < cut.parts; p++) sum += partial[size_t((i * cut.parts + p) * m.c + c)];
      pooled[i * m.c + c] = sum / float(m.hw);
    }
}

// y = act(norm(x)) * gate + residual; gate (n, c) and residual may be null
template <class T> void apply(const Map& m, const T* x, const Norm& norm, const float* gate, const T* residual, T* y, int threads) {
  Cut cut(m);
  with_act(norm.act, [&]<int A>() {
    run(threads, m.n * cut.parts, [&](int64_t task) {
      int64_t image = task / cut.parts, at = image * m.hw * m.c;
      tiles<T>(m, cut.from(task), cut.until(task), [&](int64_t r, int64_t rows, int64_t c, auto n) {
        int64_t o = at + r * m.c + c;
        V scale = read(norm.scale + c, n), shift = read(norm.shift + c, n), g = gate ? read(gate + image * m.c + c, n) : all(1.0f);
        if (residual)
          for (int64_t i = 0; i < rows; i++, o += m.c) {
            fetch(x + o + rows * m.c), fetch(residual + o + rows * m.c);
            write(y + o, activate<A, sizeof(T) == 4>(read(x + o, n) * scale + shift) * g + read(residual + o, n), n);
          }
        else
          for (int64_t i = 0; i < rows; i++, o += m.c) fetch(x + o + rows * m.c), claim(y + o + rows * m.c), write(y + o, activate<A, sizeof(T) == 4>(read(x + o, n) * scale + shift) * g, n);
      });
    });
  });
}

// What the backward pass needs to know of each image's channels before it can begin: (n, SUMS, c). With g the gradient of y:
// g act', g act' xhat; and for a gate that was computed from the image: act', act' xhat, g act
constexpr int SUMS = 5;
template <class T> void sums(const Map& m, const T* x, const T* g, const Norm& norm, bool gated, float* out, int threads) {
  Cut cut(m);
  std::vector<float> partial(size_t(m.n * cut.parts * SUMS * m.c));
  with_act(norm.act, [&]<int A>() {
    run(threads, m.n * cut.parts, [&](int64_t task) {
      int64_t at = task / cut.parts * m.hw * m.c;
      float* own = partial.data() + task * SUMS * m.c;
      tiles<T>(m, cut.from(task), cut.until(task), [&](int64_t r, int64_t rows, int64_t c, auto n) {
        int64_t o = at + r * m.c + c;
        V scale = read(norm.scale + c, n), shift = read(norm.shift + c, n), mean = read(norm.mean + c, n), s[SUMS] = {};
        auto sweep = [&]<bool GATED>() {
#pragma GCC unroll 2
          for (int64_t i = 0; i < rows; i++, o += m.c) {
            fetch(x + o + rows * m.c), fetch(g + o + rows * m.c);
            V v = read(x + o, n), d = read(g + o, n), z = v * scale + shift, e = slope<A, sizeof(T) == 4>(z), off = v - mean, de = d * e;
            s[0] += de;
            s[1] += de * off;
            if (GATED) { s[2] += e; s[3] += e * off; s[4] += d * z; }
          }
        };
        if (gated) sweep.template operator()<true>();
        else sweep.template operator()<false>();
        for (int k = 0; k < (gated ? SUMS : 2); k++) write(own + k * m.c + c, read(own + k * m.c + c, n) + s[k], n);
      });
    });
  });
  for (int64_t i = 0; i < m.n; i++)
    for (int64_t k = 0; k < SUMS; k++)
      for (int64_t c = 0; c < m.c; c++) {
        float sum = 0;
        for (int64_t p = 0; p < cut.parts; p++) sum += partial[size_t(((i * cut.parts + p) * SUMS + k) * m.c + c)];
        out[(i * SUMS + k) * m.c + c] = k == 1 || k == 3 ? sum * norm.rstd[c] : sum;
      }
}

// dx = scale act' (g gate + more) - fixed - slant (x - mean): gate and more (n, c), fixed and slant (c) may be null
template <class T>
void apply_backward(const Map& m, const T* x, const T* g, const Norm& norm, const float* gate, const float* more, const float* fixed,
                    const float* slant, T* dx, int threads) {
  Cut cut(m);
  with_act(norm.act, [&]<int A>() {
    run(threads, m.n * cut.parts, [&](int64_t task) {
      int64_t image = task / cut.parts, at = image * m.hw * m.c;
      tiles<T>(m, cut.from(task), cut.until(task), [&](int64_t r, int64_t rows, int64_t c, auto n) {
        int64_t o = at + r * m.c + c, k = image * m.c + c;
        V scale = read(norm.scale + c, n), shift = read(norm.shift + c, n), mean = read(norm.mean + c, n);
        V by = gate ? read(gate + k, n) * scale : scale, plus = more ? read(more + k, n) * scale : V{};
        V f = fixed ? read(fixed + c, n) : V{}, s = slant ? read(slant + c, n) : V{};
#pragma GCC unroll 2
        for (int64_t i = 0; i < rows; i++, o += m.c) {
          fetch(x + o + rows * m.c), fetch(g + o + rows * m.c), claim(dx + o + rows * m.c);
          V v = read(x + o, n), z = v * scale + shift, e = slope<A, sizeof(T) == 4>(z);
          write(dx + o, (read(g + o, n) * by + plus) * e - f - s * (v - mean), n);
        }
      });
    });
  });
}

}  // namespace
