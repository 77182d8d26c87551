// A folded EfficientNet-like network on AMX (bf16) and AVX-512 half precision. See docs/native-runtime.md for the idea.
//
// Between blocks an activation is bf16 [slabs of 32 channels][pixels][32]: one cache line a pixel and slab, what an AMX tile reads.
// Inside a depthwise block one slab after the other is expanded, a few rows at a time, into a small ring of rows from which the
// depthwise convolution reads, so that the expanded map never leaves the cache.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "depthwise.h"
#include "engine.h"
#include "gemm.h"
#include "team.h"

namespace phi {
namespace {

constexpr int GROUP_PIXELS = 16 * 16;  // maps up to this size run several images at a time: one reading of the weights serves all
constexpr int GROUP = 4;
constexpr int CHUNK = 64;        // images whose pooled features wait for one multiplication by the classifier
constexpr int BAND_PIXELS = 224;  // pixels that are expanded at a time
constexpr float HALF_MAX = 65504;  // the largest half-precision number
constexpr size_t SLACK = 64 * 32;  // elements behind every map: a tile of 16 pixels may read beyond the last one

int up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
int slabs(int channels) { return up(channels, 32) / 32; }

// ---- memory: zeroed, aligned for cache lines, huge pages where the system has them ----

class Arena {
  public:
    template <class T>
    T *take(size_t count) {
        const size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096 + 192;  // 192: neighbours must not share their address modulo 4096
        if (bytes > left_) grow(bytes);
        T *result = (T *)next_;
        next_ += bytes, left_ -= bytes;
        return result;
    }
    size_t bytes() const { return bytes_; }
    Arena() = default;
    Arena(const Arena &) = delete;
    ~Arena() {
        for (auto &[memory, size] : parts_) munmap(memory, size);
    }

  private:
    void grow(size_t bytes) {
        constexpr size_t PAGE = 2u << 20;
        const size_t size = (std::max<size_t>(bytes, PAGE) + PAGE - 1) / PAGE * PAGE;
        const size_t machine = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
        void *memory = bytes_ + size > machine ? MAP_FAILED : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::runtime_error("no memory: " + std::to_string((bytes_ + size) >> 20) + " MiB are needed");
        madvise(memory, size, MADV_HUGEPAGE);
        parts_.emplace_back(memory, size);
        next_ = (char *)memory, left_ = size, bytes_ += size;
    }
    std::vector<std::pair<void *, size_t>> parts_;
    char *next_ = nullptr;
    size_t left_ = 0, bytes_ = 0;
};

// ---- weights, packed once ----

struct SqueezeExcite {
    int width = 0, padded = 0;            // padded to 16
    float *reduce = nullptr, *reduce_bias = nullptr;  // [channels][padded]: contiguous in the hidden width
    float *gate = nullptr, *gate_bias = nullptr;      // [width][channels]
};

struct Block {
    phi_block it;  // its weight pointers are not used after packing
    int slabs_in, slabs_mid, slabs_out;
    bool expands;
    Packed expand, project;
    _Float16 *half = nullptr, *half_bias = nullptr;  // depthwise [slab][k * k][32], [slab][32]
    float *wide = nullptr, *wide_bias = nullptr;
    SqueezeExcite se;
    std::atomic<bool> is_wide{false}, overflowed{false};
};

// ---- sizes of one block for one image size ----

struct Geometry {
    int height, width, out_height, out_width, top, left;  // pixels; padding before the first row and column
    int pixels() const { return height * width; }
    int out_pixels() const { return out_height * out_width; }
    // the ring (depthwise) or band (full) of zero-bordered input rows
    int row_pixels, ring_rows, band;  // band: output rows at a time
    bool whole;                       // the ring holds the whole map
    bool folds;                       // squeeze-excite scales the projection's weights, not the map
    std::vector<ptrdiff_t> taps;      // full: where each k-tile starts
};

struct Buffers {  // of a team that works on the same images
    bf16 *image = nullptr, *map[2] = {}, *group[2] = {}, *mid = nullptr, *pooled = nullptr;
    float *embedding = nullptr;  // [CHUNK][features]
    float *gates = nullptr;      // [GROUP][channels]
};
struct Scratch {  // of one thread
    uint16_t *ring = nullptr;
    bf16 *weights = nullptr;  // a projection's, scaled by squeeze-excite
    float *gates = nullptr, *hidden = nullptr;  // hidden: [GROUP][width], this thread's share
};

struct Plan {  // everything that depends on the image size
    int height = 0, width = 0;
    Geometry stem;
    std::vector<Geometry> blocks;
    std::vector<ptrdiff_t> stem_taps;
    int image_row = 0;  // pixels
    int grouped = 0;    // blocks from here on run GROUP images at a time
    int features = 0, feature_pixels = 0;
    Arena arena;
    std::vector<Buffers> buffers;  // one a thread; number 0 also serves all threads together
    std::vector<Scratch> scratch;
};

// ---- packing ----

void pack(Arena &arena, Packed &packed, const float *weights, const float *bias, int out, int in, int kernel) {
    const int in_slabs = slabs(in), taps = kernel * kernel;
    packed.k_tiles = in_slabs * taps;
    packed.blocks = slabs(out);
    packed.weights = arena.take<bf16>((size_t)packed.blocks * packed.k_tiles * 1024);
    packed.bias = arena.take<float>((size_t)packed.blocks * 32);
    for (int o = 0; o < out; o++) {
        packed.bias[o] = bias[o];
        for (int i = 0; i < in; i++)
            for (int tap = 0; tap < taps; tap++)
                packed.weights[Packed::place(o, tap * in_slabs + i / 32, i % 32, packed.k_tiles)] = to_bf16(weights[((size_t)o * in + i) * taps + tap]);
    }
}

// The stem reads pixels of 4 channels: one k-tile is 8 pixels of one kernel row.
void pack_stem(Arena &arena, Packed &packed, const float *weights, const float *bias, int out, int in, int kernel) {
    packed.k_tiles = kernel;
    packed.blocks = slabs(out);
    packed.weights = arena.take<bf16>((size_t)packed.blocks * packed.k_tiles * 1024);
    packed.bias = arena.take<float>((size_t)packed.blocks * 32);
    for (int o = 0; o < out; o++) {
        packed.bias[o] = bias[o];
        for (int i = 0; i < in; i++)
            for (int ky = 0; ky < kernel; ky++)
                for (int kx = 0; kx < kernel; kx++)
                    packed.weights[Packed::place(o, ky, kx * 4 + i, kernel)] = to_bf16(weights[(((size_t)o * in + i) * kernel + ky) * kernel + kx]);
    }
}

void pack_depthwise(Arena &arena, Block &block) {
    const int taps = block.it.kernel * block.it.kernel, padded = block.slabs_mid * 32;
    block.half = arena.take<_Float16>((size_t)padded * taps);
    block.half_bias = arena.take<_Float16>(padded);
    block.wide = arena.take<float>((size_t)padded * taps);
    block.wide_bias = arena.take<float>(padded);
    for (int c = 0; c < block.it.w_mid; c++) {
        for (int tap = 0; tap < taps; tap++) {
            const size_t to = ((size_t)(c / 32) * taps + tap) * 32 + c % 32;
            block.wide[to] = block.it.depthwise_w[(size_t)c * taps + tap];
            block.half[to] = (_Float16)block.wide[to];
        }
        block.wide_bias[c] = block.it.depthwise_b[c];
        block.half_bias[c] = (_Float16)block.wide_bias[c];
        for (int tap = 0; tap < taps; tap++)
            if (std::fabs(block.it.depthwise_w[(size_t)c * taps + tap]) > HALF_MAX || std::fabs(block.wide_bias[c]) > HALF_MAX) block.is_wide = true;
    }
}

void pack_squeeze_excite(Arena &arena, Block &block) {
    SqueezeExcite &se = block.se;
    const int channels = block.slabs_mid * 32;
    se.width = block.it.w_se;
    se.padded = up(se.width, 16);
    se.reduce = arena.take<float>((size_t)channels * se.padded);
    se.reduce_bias = arena.take<float>(se.padded);
    se.gate = arena.take<float>((size_t)se.width * channels);
    se.gate_bias = arena.take<float>(channels);
    for (int h = 0; h < se.width; h++) {
        se.reduce_bias[h] = block.it.reduce_b[h];
        for (int c = 0; c < block.it.w_mid; c++) {
            se.reduce[(size_t)c * se.padded + h] = block.it.reduce_w[(size_t)h * block.it.w_mid + c];
            se.gate[(size_t)h * channels + c] = block.it.gate_w[(size_t)c * se.width + h];
        }
    }
    for (int c = 0; c < block.it.w_mid; c++) se.gate_bias[c] = block.it.gate_b[c];
}

}  // namespace
}  // namespace phi

using namespace phi;

// ---- the engine ----

struct phi_engine {
    explicit phi_engine(const phi_network &network);
    void run(const float *images, int batch, int height, int width, float *logits, float *embedding, float *features);

    phi_network net;
    int stem_slabs;  // of what the first block reads
    int last_width;
    Arena arena;
    Packed stem, head, classifier;
    std::vector<std::unique_ptr<Block>> blocks;
    std::atomic<bool> head_wide{false}, head_overflowed{false};
    std::unique_ptr<Team> team;
    std::unique_ptr<Plan> plan;
    std::mutex mutex;
    const pid_t owner = getpid();

  private:
    struct Work {  // one thread's view of a piece of work
        int id, size;  // of the team that shares it; 0 and 1: alone
        Team *team;
        Buffers *shared;
        Scratch *own;
        Plan *plan;
        void barrier() const {
            if (size > 1) team->barrier();
        }
        // this thread's part of `count` pieces
        std::pair<int, int> share(int count) const { return {(int)((int64_t)count * id / size), (int)((int64_t)count * (id + 1) / size)}; }
    };
    struct Map {  // bf16 [slab][pixels of all images][32]
        bf16 *data;
        size_t slab;  // elements from a slab to the next
    };

    // the k-tiles of a 1x1 convolution: one a slab
    static std::vector<ptrdiff_t> steps(const Map &map, int count) {
        std::vector<ptrdiff_t> result(count);
        for (int s = 0; s < count; s++) result[s] = (ptrdiff_t)(s * map.slab);
        return result;
    }

    void make_plan(int height, int width);
    Geometry geometry(int height, int width, int kernel, int stride) const;
    void pass(const float *images, int batch, float *logits, float *embedding, float *features);
    void images_through(const Work &work, const float *images, int count, int first_in_chunk, float *features);
    void classify(const Work &work, int count, float *logits, float *embedding);
    void load_image(const Work &work, const float *image);
    template <class P, class Done>
    void stem_rows(const Work &work, int slab, int first, int last, Done done);
    void stem_alone(const Work &work, Map out);
    void image_alone(const Work &work, const float *image, Map out);
    void run_block(const Work &work, int index, Map in, Map out, int images);
    template <class P>
    void depthwise_units(const Work &work, int index, Map in, Map mid, int images);
    template <class P>
    void full_rows(const Work &work, int index, Map in, Map mid, Map out, int images);
    void squeeze_excite(const Work &work, int index, Map mid, int images, const bf16 **project_weights);
    void project(const Work &work, int index, Map mid, Map in, Map out, int images, const bf16 *weights);
    template <class P>
    void run_head(const Work &work, Map in, int images, int first_in_chunk, float *features);
};

phi_engine::phi_engine(const phi_network &network) : net(network) {
    last_width = net.stem_width ? net.stem_width : net.in_channels;
    stem_slabs = slabs(last_width);
    if (net.stem_width) pack_stem(arena, stem, net.stem_w, net.stem_b, net.stem_width, net.in_channels, net.stem_kernel);
    for (int i = 0; i < net.block_count; i++) {
        blocks.push_back(std::make_unique<Block>());
        Block &block = *blocks.back();
        const phi_block &it = block.it = net.blocks[i];
        block.expands = it.expand_w != nullptr;
        block.slabs_in = slabs(it.w_in), block.slabs_mid = slabs(it.w_mid), block.slabs_out = slabs(it.w_out);
        block.is_wide = it.wide != 0;
        if (it.kind == PHI_DEPTHWISE) {
            if (block.expands) pack(arena, block.expand, it.expand_w, it.expand_b, it.w_mid, it.w_in, 1);
            pack_depthwise(arena, block);
            pack(arena, block.project, it.project_w, it.project_b, it.w_out, it.w_mid, 1);
        } else if (block.expands) {
            pack(arena, block.expand, it.expand_w, it.expand_b, it.w_mid, it.w_in, it.kernel);
            pack(arena, block.project, it.project_w, it.project_b, it.w_out, it.w_mid, 1);
        } else {
            pack(arena, block.project, it.project_w, it.project_b, it.w_out, it.w_in, it.kernel);
        }
        if (it.w_se) pack_squeeze_excite(arena, block);
        last_width = it.w_out;
    }
    if (net.head_width) {
        pack(arena, head, net.head_w, net.head_b, net.head_width, last_width, 1);
        last_width = net.head_width;
    }
    if (net.num_classes) pack(arena, classifier, net.classifier_w, net.classifier_b, net.num_classes, last_width, 1);
    team = std::make_unique<Team>(net.threads);
}

// ---- planning ----

Geometry phi_engine::geometry(int height, int width, int kernel, int stride) const {
    Geometry g{};
    g.height = height, g.width = width;
    auto axis = [&](int size, int &out, int &before) {
        const int half = (kernel - 1) / 2;
        out = net.symmetric ? (size + 2 * half - kernel) / stride + 1 : (size + stride - 1) / stride;
        before = net.symmetric ? half : std::max(0, (out - 1) * stride + kernel - size) / 2;
    };
    axis(height, g.out_height, g.top);
    axis(width, g.out_width, g.left);
    g.row_pixels = std::max(g.left + width, (g.out_width - 1) * stride + kernel);
    return g;
}

void phi_engine::make_plan(int height, int width) {
    plan.reset();
    auto fresh = std::make_unique<Plan>();
    Plan &p = *fresh;
    p.height = height, p.width = width;
    p.stem = net.stem_width ? geometry(height, width, net.stem_kernel, net.stem_stride) : geometry(height, width, 1, 1);
    // the stem's tiles read 8 pixels from each output's first one, and 32 outputs at a time
    p.image_row = up(std::max(p.stem.row_pixels, (up(p.stem.out_width, 32) - 1) * net.stem_stride + 8), 8);
    for (int ky = 0; ky < net.stem_kernel; ky++) p.stem_taps.push_back((ptrdiff_t)ky * p.image_row * 4);
    const size_t image_rows = (size_t)height + 2 * net.stem_kernel;

    size_t map = 0, mid = 0, ring = 0, weights = 0, channels = 0, hidden = 0;
    int h = p.stem.out_height, w = p.stem.out_width;
    map = (size_t)stem_slabs * h * w;
    p.grouped = (int)blocks.size();
    for (size_t i = 0; i < blocks.size(); i++) {
        const Block &block = *blocks[i];
        const phi_block &it = block.it;
        Geometry g = geometry(h, w, it.kernel, it.stride);
        if (i > 0 && h * w <= GROUP_PIXELS) p.grouped = std::min(p.grouped, (int)i);
        const int images = (int)i >= p.grouped ? GROUP : 1;
        const size_t out = (size_t)block.slabs_out * g.out_pixels();
        channels = std::max<size_t>(channels, (size_t)block.slabs_mid * 32);
        hidden = std::max<size_t>(hidden, block.se.padded);
        if (it.kind == PHI_DEPTHWISE) {
            g.whole = h * w <= GROUP_PIXELS;
            g.band = g.whole ? g.out_height : std::max(1, BAND_PIXELS / w / it.stride);
            const int rows = g.whole ? std::max(g.top + h, (g.out_height - 1) * it.stride + it.kernel)
                                     : (g.band - 1) * it.stride + it.kernel + g.band * it.stride;
            for (g.ring_rows = 1; g.ring_rows < rows;) g.ring_rows *= 2;
            ring = std::max(ring, (size_t)g.ring_rows * g.row_pixels * 32 * images + SLACK);
            mid = std::max(mid, (size_t)block.slabs_mid * g.out_pixels() * images);
            weights = std::max(weights, (size_t)block.project.blocks * block.project.k_tiles * 1024);
        } else {
            // the last tile of a row reads up to 31 outputs beyond it
            g.row_pixels = std::max(g.row_pixels, (up(g.out_width, 32) - 1) * it.stride + it.kernel);
            g.band = std::min(g.out_height, std::max(1, 2 * BAND_PIXELS / g.out_width));
            g.ring_rows = (g.band - 1) * it.stride + it.kernel;
            const size_t slab = (size_t)g.ring_rows * g.row_pixels * 32;
            for (int ky = 0; ky < it.kernel; ky++)
                for (int kx = 0; kx < it.kernel; kx++)
                    for (int s = 0; s < block.slabs_in; s++) g.taps.push_back((ptrdiff_t)(s * slab + ((size_t)ky * g.row_pixels + kx) * 32));
            ring = std::max(ring, slab * block.slabs_in + SLACK);
            if (block.expands) {
                mid = std::max(mid, (size_t)block.slabs_mid * g.out_pixels() * images);
                weights = std::max(weights, (size_t)block.project.blocks * block.project.k_tiles * 1024);
            }
        }
        // folding writes the projection's weights once an image; scaling writes the map
        g.folds = images == 1 && g.out_pixels() > 2 * it.w_out;
        if (images == 1) map = std::max(map, out);
        p.blocks.push_back(std::move(g));
        h = p.blocks.back().out_height, w = p.blocks.back().out_width;
    }
    p.feature_pixels = h * w;
    p.features = slabs(last_width) * 32;
    size_t group = 0;
    for (size_t i = (size_t)p.grouped; i < blocks.size() + 1; i++)  // the input of the first grouped block, and all outputs after it
        if (i > 0) group = std::max(group, (size_t)blocks[i - 1]->slabs_out * p.blocks[i - 1].out_pixels() * GROUP);

    const int threads = team->size();
    for (int t = 0; t < threads; t++) {
        Buffers b;
        if (net.stem_width) b.image = p.arena.take<bf16>(image_rows * p.image_row * 4 + SLACK);
        for (int i = 0; i < 2; i++) b.map[i] = p.arena.take<bf16>(map * 32 + SLACK), b.group[i] = p.arena.take<bf16>(group * 32 + SLACK);
        b.mid = p.arena.take<bf16>(mid * 32 + SLACK);
        b.pooled = p.arena.take<bf16>((size_t)CHUNK * p.features + SLACK);
        b.embedding = p.arena.take<float>((size_t)CHUNK * p.features);
        b.gates = p.arena.take<float>(GROUP * channels);
        p.buffers.push_back(b);
        Scratch s;
        s.ring = p.arena.take<uint16_t>(ring);
        s.weights = p.arena.take<bf16>(weights);
        s.gates = p.arena.take<float>(channels);
        s.hidden = p.arena.take<float>(GROUP * hidden + 16);
        p.scratch.push_back(s);
    }
    plan = std::move(fresh);
}

// ---- writing into a ring of zero-bordered rows ----

namespace {

// Where the next pixel of a map goes: row after row, then the next image's ring.
template <class P>
struct RingCursor {
    uint16_t *ring;
    size_t next_ring;
    const Geometry &g;
    int y, x = 0;
    RingCursor(uint16_t *ring, size_t next_ring, const Geometry &g, int y) : ring(ring), next_ring(next_ring), g(g), y(y) {}

    template <class Value>
    __attribute__((always_inline)) void put(int count, Value value) {
        for (int r = 0; r < count;) {
            const int run = std::min(count - r, g.width - x);
            uint16_t *to = ring + ((size_t)((y + g.top) & (g.ring_rows - 1)) * g.row_pixels + g.left + x) * 32;
#pragma GCC unroll 4
            for (int i = 0; i < run; i++) P::store(to + (size_t)i * 32, value(r + i));
            r += run, x += run;
            if (x == g.width) {
                x = 0;
                if (++y == g.height) y = 0, ring += next_ring;
            }
        }
    }
};

void zero_row(uint16_t *ring, const Geometry &g, int y) {
    memset(ring + (size_t)((y + g.top) & (g.ring_rows - 1)) * g.row_pixels * 32, 0, (size_t)g.row_pixels * 64);
}

void zero_borders(uint16_t *ring, const Geometry &g) {
    for (int r = 0; r < g.ring_rows; r++) {
        uint16_t *row = ring + (size_t)r * g.row_pixels * 32;
        memset(row, 0, (size_t)g.left * 64);
        memset(row + (size_t)(g.left + g.width) * 32, 0, (size_t)(g.row_pixels - g.left - g.width) * 64);
    }
}

// hidden[width] += sums[32] * weights[32][width], one slab's share of squeeze-excite's first layer
void reduce_slab(const SqueezeExcite &se, const float *sums, int slab, float *hidden) {
    for (int h = 0; h < se.padded; h += 16) {
        F acc[4];
        for (F &a : acc) a = _mm512_setzero_ps();
        const float *weights = se.reduce + (size_t)slab * 32 * se.padded + h;
        for (int c = 0; c < 32; c++) acc[c % 4] = _mm512_fmadd_ps(_mm512_set1_ps(sums[c]), _mm512_loadu_ps(weights + (size_t)c * se.padded), acc[c % 4]);
        F sum = _mm512_add_ps(_mm512_add_ps(acc[0], acc[1]), _mm512_add_ps(acc[2], acc[3]));
        _mm512_storeu_ps(hidden + h, _mm512_add_ps(sum, _mm512_loadu_ps(hidden + h)));
    }
}

// the gates of one slab
F2 gate_slab(const SqueezeExcite &se, int channels, const float *hidden, int slab) {
    F2 sum = load2(se.gate_bias + slab * 32), other{_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int h = 0; h < se.width; h++) {
        const F2 w = load2(se.gate + (size_t)h * channels + slab * 32);
        const F v = _mm512_set1_ps(hidden[h]);
        F2 &to = h % 2 ? other : sum;
        to = {_mm512_fmadd_ps(v, w.lo, to.lo), _mm512_fmadd_ps(v, w.hi, to.hi)};
    }
    sum = add(sum, other);
    return {sigmoid(sum.lo), sigmoid(sum.hi)};
}

// weights of a projection times the gates of its inputs
void fold_gates(const Packed &packed, const float *gates, bf16 *out) {
    const __m512i odd = _mm512_set1_epi32((int)0xffff0000), half = _mm512_set1_epi32(0x8000);
    for (int n = 0; n < packed.blocks; n++)
        for (int k = 0; k < packed.k_tiles; k++)
            for (int pair = 0; pair < 16; pair++) {
                const F even_gate = _mm512_set1_ps(gates[k * 32 + 2 * pair]), odd_gate = _mm512_set1_ps(gates[k * 32 + 2 * pair + 1]);
                for (int q = 0; q < 2; q++) {
                    const size_t at = ((size_t)n * packed.k_tiles + k) * 1024 + q * 512 + pair * 32;
                    const __m512i v = _mm512_loadu_si512(packed.weights + at);
                    const F e = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)), even_gate);
                    const F o = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_and_si512(v, odd)), odd_gate);
                    const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(e), half), 16);
                    const __m512i high = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(o), half), odd);
                    _mm512_storeu_si512(out + at, _mm512_or_si512(low, high));
                }
            }
}

void activate(float *values, int count, int kind) {
    with_act(kind, [&](auto a) {
        for (int i = 0; i < count; i += 16) _mm512_storeu_ps(values + i, act<decltype(a)::value>(_mm512_loadu_ps(values + i)));
    });
}

// The processor's own overflow flag tells whether half precision was left in between: nothing overflows silently.
constexpr unsigned OVERFLOW_FLAG = 8;
INLINE void clear_overflow() { _mm_setcsr(_mm_getcsr() & ~OVERFLOW_FLAG); }
INLINE bool overflow() { return _mm_getcsr() & OVERFLOW_FLAG; }

}  // namespace

// ---- image and stem ----

// float32 [channels][height][width] -> bf16 zero-bordered rows of 4-channel pixels, this thread's share of rows
void phi_engine::load_image(const Work &work, const float *image) {
    const Plan &p = *work.plan;
    const size_t plane = (size_t)p.height * p.width;
    auto [first, last] = work.share(p.height);
    const __m512i zip_low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i zip_high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    for (int y = first; y < last; y++)
        for (int x = 0; x < p.width; x += 16) {
            const __mmask16 mask = p.width - x >= 16 ? 0xffff : (__mmask16)((1u << (p.width - x)) - 1);
            __m512i channel[4];
            for (int c = 0; c < 4; c++) {
                channel[c] = _mm512_setzero_si512();
                if (c < net.in_channels) {
                    const F v = _mm512_maskz_loadu_ps(mask, image + c * plane + (size_t)y * p.width + x);
                    channel[c] = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v));
                }
            }
            const __m512i low = _mm512_or_si512(channel[0], _mm512_slli_epi32(channel[1], 16));
            const __m512i high = _mm512_or_si512(channel[2], _mm512_slli_epi32(channel[3], 16));
            bf16 *to = work.shared->image + ((size_t)(y + p.stem.top) * p.image_row + p.stem.left + x) * 4;
            const int lanes = std::min(16, p.width - x) * 2;  // 4 bytes each
            _mm512_mask_storeu_epi32(to, (__mmask16)((1u << std::min(16, lanes)) - 1), _mm512_permutex2var_epi32(low, zip_low, high));
            if (lanes > 16) _mm512_mask_storeu_epi32(to + 32, (__mmask16)((1u << (lanes - 16)) - 1), _mm512_permutex2var_epi32(low, zip_high, high));
        }
}

// rows [first, last) of one slab of the stem's output, row by row: done(count, value), value(i) the i-th next pixel
template <class P, class Done>
void phi_engine::stem_rows(const Work &work, int slab, int first, int last, Done done) {
    const Plan &p = *work.plan;
    const int per_row = up(p.stem.out_width, 32) / 32;
    auto rows_at = [&](int i) -> Rows {
        const int y = first + i / per_row, x = i % per_row * 32;
        const bf16 *at = work.shared->image + ((size_t)y * net.stem_stride * p.image_row + (size_t)x * net.stem_stride) * 4;
        return {at, std::min(32, p.stem.out_width - x)};
    };
    with_act(net.activation, [&](auto a) __attribute__((always_inline)) {
        gemm((last - first) * per_row, rows_at, p.stem_taps.data(), (size_t)net.stem_stride * 8, stem, stem.block(slab), slab,
             [&](int, int count, const float *c) __attribute__((always_inline)) {
                 done(count, [&](int r) __attribute__((always_inline)) { return act<decltype(a)::value>(P::from(load2(c + r * 32))); });
             });
    });
}

// the stem's output as a map, where the first block can't take it row by row
void phi_engine::stem_alone(const Work &work, Map out) {
    auto [first, last] = work.share(work.plan->stem.out_height);
    for (int slab = 0; slab < stem_slabs; slab++) {
        bf16 *to = out.data + slab * out.slab + (size_t)first * work.plan->stem.out_width * 32;
        stem_rows<Wide>(work, slab, first, last, [&](int count, auto value) __attribute__((always_inline)) {
            for (int r = 0; r < count; r++, to += 32) Wide::store(to, value(r));
        });
    }
    work.barrier();
}

// the image as a map, where there is no stem
void phi_engine::image_alone(const Work &work, const float *image, Map out) {
    const int pixels = work.plan->height * work.plan->width;
    auto [first, last] = work.share(pixels);
    for (int c = 0; c < net.in_channels; c++)
        for (int i = first; i < last; i++) out.data[c / 32 * out.slab + (size_t)i * 32 + c % 32] = to_bf16(image[(size_t)c * pixels + i]);
    work.barrier();
}

// ---- a depthwise block up to its squeeze-excite: expand, depthwise ----

template <class P>
void phi_engine::depthwise_units(const Work &work, int index, Map in, Map mid, int images) {
    Block &block = *blocks[index];
    const phi_block &it = block.it;
    const Geometry &g = work.plan->blocks[index];
    const bool from_stem = in.data == nullptr;
    const size_t ring_size = (size_t)g.ring_rows * g.row_pixels * 32;
    uint16_t *const ring = work.own->ring;
    for (int i = 0; i < (g.whole ? images : 1); i++) zero_borders(ring + i * ring_size, g);
    if (it.w_se) memset(work.own->hidden, 0, sizeof(float) * images * block.se.padded);

    DepthwiseJob job{};
    job.row_pixels = g.row_pixels, job.row_mask = g.ring_rows - 1;
    job.activation = net.activation, job.out_width = g.out_width;
    const auto offsets = steps(in, block.slabs_in);
    const Depthwise run = depthwise_for<P>(it.kernel, it.stride, g.out_width);
    const int taps = it.kernel * it.kernel;

    // input rows [first, last) of `count` images from the image-th on, into as many rings
    auto produce = [&](int slab, int image, int count, int first, int last) {
        const int m0 = first * g.width, m1 = (count - 1) * g.pixels() + last * g.width;
        RingCursor<P> cursor(ring, ring_size, g, first);
        if (from_stem) {
            stem_rows<P>(work, slab, first, last, [&](int n, auto value) __attribute__((always_inline)) { cursor.put(n, value); });
            return;
        }
        if (!block.expands) {
            const bf16 *from = in.data + slab * in.slab + ((size_t)image * g.pixels() + m0) * 32;
            cursor.put(m1 - m0, [&](int r) __attribute__((always_inline)) { return P::from(unpack_bf16(_mm512_loadu_si512(from + (size_t)r * 32))); });
            return;
        }
        const bf16 *from = in.data + (size_t)image * g.pixels() * 32;
        auto rows_at = [&](int i) -> Rows { return {from + (size_t)(m0 + i * 32) * 32, std::min(32, m1 - m0 - i * 32)}; };
        with_act(net.activation, [&](auto a) __attribute__((always_inline)) {
            gemm((m1 - m0 + 31) / 32, rows_at, offsets.data(), 64, block.expand, block.expand.block(slab), slab,
                 [&](int, int n, const float *c) __attribute__((always_inline)) {
                     cursor.put(n, [&](int r) __attribute__((always_inline)) { return act<decltype(a)::value>(P::from(load2(c + r * 32))); });
                 });
        });
    };
    // output rows [first, last) of one image, a band at a time
    auto banded = [&](int slab, int image, int first, int last) {
        const int band_in = g.band * it.stride;
        const int end = std::min(g.height, (last - 1) * it.stride - g.top + it.kernel);  // input rows that these outputs need
        int next = std::max(0, first * it.stride - g.top);
        for (int y = first * it.stride - g.top; y < 0; y++) zero_row(ring, g, y);
        for (int y = first; y < last; y += g.band) {
            const int stop = std::min(last, y + g.band), need = (stop - 1) * it.stride - g.top + it.kernel;
            if (std::min(need, g.height) > next) {
                const int to = std::min(end, next + up(std::min(need, g.height) - next, band_in));
                produce(slab, image, 1, next, to);
                next = to;
            }
            for (int below = g.height; below < need; below++) zero_row(ring, g, below);
            job.ring = ring, job.first = y, job.last = stop;
            run(job);
        }
    };

    // a unit is a slab, or part of its rows where the slabs alone don't share out well
    int parts = 1;
    if (work.size > 1)
        while (parts < 4 && up(block.slabs_mid * parts, work.size) * 10 > block.slabs_mid * parts * 11 && g.out_height >= 8 * parts) parts *= 2;
    auto [first_unit, last_unit] = work.share(block.slabs_mid * parts);
    for (int unit = first_unit; unit < last_unit; unit++) {
        const int slab = unit / parts, part = unit % parts;
        const int first = g.out_height * part / parts, last = g.out_height * (part + 1) / parts;
        alignas(64) float sums[GROUP][32] = {};
        if constexpr (sizeof(typename P::Weight) == 2) {
            job.weights = block.half + (size_t)slab * taps * 32, job.bias = block.half_bias + slab * 32;
        } else {
            job.weights = block.wide + (size_t)slab * taps * 32, job.bias = block.wide_bias + slab * 32;
        }
        const bool together = g.whole && parts == 1 && images > 1;
        if (together) {
            for (int i = 0; i < images; i++) {
                for (int y = -g.top; y < 0; y++) zero_row(ring + i * ring_size, g, y);
                for (int y = g.height; y < (g.out_height - 1) * it.stride - g.top + it.kernel; y++) zero_row(ring + i * ring_size, g, y);
            }
            produce(slab, 0, images, 0, g.height);
        }
        for (int i = 0; i < images; i++) {
            job.out = mid.data + slab * mid.slab + (size_t)i * g.out_pixels() * 32;
            job.sum = it.w_se ? sums[i] : nullptr;
            if (together) {
                job.ring = ring + i * ring_size, job.first = 0, job.last = g.out_height;
                run(job);
            } else {
                banded(slab, i, first, last);
            }
            if (it.w_se) {
                for (float &sum : sums[i]) sum /= (float)g.out_pixels();
                reduce_slab(block.se, sums[i], slab, work.own->hidden + (size_t)i * block.se.padded);
            }
        }
    }
}

// ---- a full block up to its squeeze-excite (or up to its end, where it has no expansion) ----

template <class P>
void phi_engine::full_rows(const Work &work, int index, Map in, Map mid, Map out, int images) {
    Block &block = *blocks[index];
    const phi_block &it = block.it;
    const Geometry &g = work.plan->blocks[index];
    const Packed &conv = block.expands ? block.expand : block.project;
    const Map to = block.expands ? mid : out;
    const bool adds = !block.expands && it.skips;
    bf16 *const rows = work.own->ring;
    const size_t slab_size = (size_t)g.ring_rows * g.row_pixels * 32;
    const int per_row = up(g.out_width, 32) / 32;
    if (it.w_se) memset(work.own->hidden, 0, sizeof(float) * images * block.se.padded);
    for (int s = 0; s < block.slabs_in; s++) zero_borders(rows + s * slab_size, g);

    auto [first, last] = work.share(g.out_height);
    for (int image = 0; image < images; image++) {
        for (int y = first; y < last; y += g.band) {
            const int stop = std::min(last, y + g.band);
            for (int s = 0; s < block.slabs_in; s++)
                for (int r = 0; r < (stop - y - 1) * it.stride + it.kernel; r++) {
                    const int from = y * it.stride - g.top + r;
                    bf16 *row = rows + s * slab_size + ((size_t)r * g.row_pixels + g.left) * 32;
                    if (from < 0 || from >= g.height)
                        memset(row, 0, (size_t)g.width * 64);
                    else
                        memcpy(row, in.data + s * in.slab + ((size_t)image * g.pixels() + (size_t)from * g.width) * 32, (size_t)g.width * 64);
                }
            auto rows_at = [&](int i) -> Rows {
                const int line = i / per_row, x = i % per_row * 32;
                return {rows + ((size_t)line * it.stride * g.row_pixels + (size_t)x * it.stride) * 32, std::min(32, g.out_width - x)};
            };
            for (int n = 0; n < conv.blocks; n++) {
                const size_t start = ((size_t)image * g.out_pixels() + (size_t)y * g.out_width) * 32;
                bf16 *write = to.data + n * to.slab + start;
                const bf16 *read = adds ? in.data + n * in.slab + start : nullptr;
                F2 sum{_mm512_setzero_ps(), _mm512_setzero_ps()};
                with_act(net.activation, [&](auto a) __attribute__((always_inline)) {
                    gemm((stop - y) * per_row, rows_at, g.taps.data(), (size_t)it.stride * 64, conv, conv.block(n), n,
                         [&](int, int count, const float *c) __attribute__((always_inline)) {
                             for (int r = 0; r < count; r++, write += 32) {
                                 F2 v = P::widen(act<decltype(a)::value>(P::from(load2(c + r * 32))));
                                 if (it.w_se) sum = add(sum, v);
                                 if (adds) {
                                     v = add(v, unpack_bf16(_mm512_loadu_si512(read)));
                                     read += 32;
                                 }
                                 _mm512_storeu_si512(write, pack_bf16(v));
                             }
                         });
                });
                if (it.w_se) {
                    alignas(64) float mean[32];
                    const F scale = _mm512_set1_ps(1.f / (float)g.out_pixels());
                    store2(mean, mul(sum, {scale, scale}));
                    reduce_slab(block.se, mean, n, work.own->hidden + (size_t)image * block.se.padded);
                }
            }
        }
    }
}

// ---- squeeze-excite: gates from the sums; they scale the map or, for large maps, the projection's weights ----

void phi_engine::squeeze_excite(const Work &work, int index, Map mid, int images, const bf16 **project_weights) {
    Block &block = *blocks[index];
    const SqueezeExcite &se = block.se;
    const Geometry &g = work.plan->blocks[index];
    const int channels = block.slabs_mid * 32;
    std::vector<float> sums(se.padded);
    float *const hidden = sums.data();
    auto [first, last] = work.share(block.slabs_mid);
    for (int image = 0; image < images; image++) {
        memcpy(hidden, se.reduce_bias, sizeof(float) * se.padded);
        for (int t = 0; t < work.size; t++) {
            const float *part = (work.size > 1 ? work.plan->scratch[t] : *work.own).hidden + (size_t)image * se.padded;
            for (int h = 0; h < se.padded; h++) hidden[h] += part[h];
        }
        activate(hidden, se.padded, net.activation);
        if (g.folds) {
            for (int slab = 0; slab < block.slabs_mid; slab++) store2(work.own->gates + slab * 32, gate_slab(se, channels, hidden, slab));
            fold_gates(block.project, work.own->gates, work.own->weights);
            *project_weights = work.own->weights;
            continue;
        }
        for (int slab = first; slab < last; slab++) {
            const F2 gate = gate_slab(se, channels, hidden, slab);
            bf16 *map = mid.data + slab * mid.slab + (size_t)image * g.out_pixels() * 32;
            for (int i = 0; i < g.out_pixels(); i++, map += 32) _mm512_storeu_si512(map, pack_bf16(mul(unpack_bf16(_mm512_loadu_si512(map)), gate)));
        }
    }
    if (!g.folds) work.barrier();
}

void phi_engine::project(const Work &work, int index, Map mid, Map in, Map out, int images, const bf16 *weights) {
    Block &block = *blocks[index];
    const Geometry &g = work.plan->blocks[index];
    const int pixels = images * g.out_pixels(), tiles = up(pixels, 32) / 32;
    // share out pixels where there are many, else outputs
    const bool by_pixels = tiles >= 4 * work.size;
    auto [tile0, tile1] = by_pixels ? work.share(tiles) : std::pair<int, int>(0, tiles);
    auto [n0, n1] = by_pixels ? std::pair<int, int>(0, block.project.blocks) : work.share(block.project.blocks);
    const int m0 = tile0 * 32, m1 = std::min(pixels, tile1 * 32);
    const auto offsets = steps(mid, block.slabs_mid);
    auto rows_at = [&](int i) -> Rows { return {mid.data + (size_t)(m0 + i * 32) * 32, std::min(32, m1 - m0 - i * 32)}; };
    for (int n = n0; n < n1; n++) {
        bf16 *write = out.data + n * out.slab + (size_t)m0 * 32;
        const bf16 *read = block.it.skips ? in.data + n * in.slab + (size_t)m0 * 32 : nullptr;
        with_act(block.it.project_acts ? net.activation : PHI_NONE, [&](auto a) __attribute__((always_inline)) {
            gemm((m1 - m0 + 31) / 32, rows_at, offsets.data(), 64, block.project, weights + (size_t)n * block.project.k_tiles * 1024, n,
                 [&](int, int count, const float *c) __attribute__((always_inline)) {
                     if (read) {
#pragma GCC unroll 4
                         for (int r = 0; r < count; r++) {
                             const F2 v = add(act<decltype(a)::value>(load2(c + r * 32)), unpack_bf16(_mm512_loadu_si512(read + r * 32)));
                             _mm512_storeu_si512(write + r * 32, pack_bf16(v));
                         }
                         read += 32 * 32;
                     } else {
#pragma GCC unroll 4
                         for (int r = 0; r < count; r++) _mm512_storeu_si512(write + r * 32, pack_bf16(act<decltype(a)::value>(load2(c + r * 32))));
                     }
                     write += 32 * 32;
                 });
        });
    }
}

void phi_engine::run_block(const Work &work, int index, Map in, Map out, int images) {
    Block &block = *blocks[index];
    const Geometry &g = work.plan->blocks[index];
    const Map mid{work.shared->mid, (size_t)images * g.out_pixels() * 32};
    const bf16 *weights = block.project.weights;
    clear_overflow();
    if (block.it.kind == PHI_DEPTHWISE) {
        block.is_wide ? depthwise_units<Wide>(work, index, in, mid, images) : depthwise_units<Half>(work, index, in, mid, images);
    } else {
        // half precision only pays where the activation is costly
        const bool half = !block.is_wide && net.activation == PHI_SILU;
        half ? full_rows<Half>(work, index, in, mid, out, images) : full_rows<Wide>(work, index, in, mid, out, images);
    }
    if (overflow() && !block.is_wide) block.overflowed = true;
    work.barrier();
    if (block.it.kind == PHI_FULL && !block.expands) return;
    if (block.it.w_se) squeeze_excite(work, index, mid, images, &weights);
    project(work, index, mid, in, out, images, weights);
    work.barrier();
}

// ---- head, mean pooling, classifier ----

template <class P>
void phi_engine::run_head(const Work &work, Map in, int images, int first_in_chunk, float *features) {
    const Plan &p = *work.plan;
    const int pixels = p.feature_pixels, stride = p.features;
    const F scale = _mm512_set1_ps(1.f / (float)pixels);
    F2 sum{_mm512_setzero_ps(), _mm512_setzero_ps()};
    int pixel = 0, image = 0;
    auto put = [&](int n, F2 v) __attribute__((always_inline)) {
        sum = add(sum, v);
        if (features) {
            alignas(64) float channel[32];
            store2(channel, v);
            for (int c = 0; c < std::min(32, last_width - n * 32); c++)
                features[((size_t)image * last_width + n * 32 + c) * pixels + pixel] = channel[c];
        }
        if (++pixel < pixels) return;
        const F2 mean = mul(sum, {scale, scale});
        store2(work.shared->embedding + (size_t)(first_in_chunk + image) * stride + n * 32, mean);
        _mm512_storeu_si512(work.shared->pooled + ((size_t)n * CHUNK + first_in_chunk + image) * 32, pack_bf16(mean));
        sum = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        pixel = 0, image++;
    };
    auto [n0, n1] = work.share(p.features / 32);
    const auto offsets = steps(in, head.k_tiles);
    auto rows_at = [&](int i) -> Rows { return {in.data + (size_t)i * 32 * 32, std::min(32, images * pixels - i * 32)}; };
    for (int n = n0; n < n1; n++) {
        pixel = image = 0;
        if (!net.head_width) {
            for (int r = 0; r < images * pixels; r++) put(n, unpack_bf16(_mm512_loadu_si512(in.data + n * in.slab + (size_t)r * 32)));
            continue;
        }
        with_act(net.activation, [&](auto a) __attribute__((always_inline)) {
            gemm((images * pixels + 31) / 32, rows_at, offsets.data(), 64, head, head.block(n), n, [&](int, int count, const float *c) __attribute__((always_inline)) {
                for (int r = 0; r < count; r++) put(n, P::widen(act<decltype(a)::value>(P::from(load2(c + r * 32)))));
            });
        });
    }
}

// pooled features of `count` images -> logits, embedding
void phi_engine::classify(const Work &work, int count, float *logits, float *embedding) {
    const Plan &p = *work.plan;
    if (embedding) {
        auto [first, last] = work.share(count);
        for (int i = first; i < last; i++)
            memcpy(embedding + (size_t)i * last_width, work.shared->embedding + (size_t)i * p.features, sizeof(float) * last_width);
    }
    if (!logits || !net.num_classes) return;
    const auto offsets = steps({work.shared->pooled, CHUNK * 32}, classifier.k_tiles);
    auto rows_at = [&](int i) -> Rows { return {work.shared->pooled + (size_t)i * 32 * 32, std::min(32, count - i * 32)}; };
    auto [n0, n1] = work.share(classifier.blocks);
    for (int n = n0; n < n1; n++) {
        const int width = std::min(32, net.num_classes - n * 32);
        const __mmask16 low = (__mmask16)((1u << std::min(16, width)) - 1), high = width > 16 ? (__mmask16)((1u << (width - 16)) - 1) : 0;
        gemm((count + 31) / 32, rows_at, offsets.data(), 64, classifier, classifier.block(n), n, [&](int i, int rows, const float *c) {
            for (int r = 0; r < rows; r++) {
                float *to = logits + (size_t)(i * 32 + r) * net.num_classes + n * 32;
                _mm512_mask_storeu_ps(to, low, _mm512_loadu_ps(c + r * 32));
                if (high) _mm512_mask_storeu_ps(to + 16, high, _mm512_loadu_ps(c + r * 32 + 16));
            }
        });
    }
}

// ---- a whole run ----

// up to GROUP images from pixels to pooled features
void phi_engine::images_through(const Work &work, const float *images, int count, int first_in_chunk, float *features) {
    Plan &p = *work.plan;
    const int total = (int)blocks.size();
    const size_t image_size = (size_t)net.in_channels * p.height * p.width;
    const bool streams = net.stem_width && blocks[0]->it.kind == PHI_DEPTHWISE && !blocks[0]->expands && !blocks[0]->it.skips;
    for (int image = 0; image < count; image++) {
        if (net.stem_width) load_image(work, images + image * image_size);
        work.barrier();
        Map in{nullptr, 0};
        int side = 0;
        if (!streams) {
            in = {work.shared->map[side], (size_t)p.stem.out_pixels() * 32};
            side ^= 1;
            net.stem_width ? stem_alone(work, in) : image_alone(work, images + image * image_size, in);
        }
        for (int i = 0; i < p.grouped; i++) {
            const size_t pixels = p.blocks[i].out_pixels();
            Map out{work.shared->map[side], pixels * 32};
            if (i == p.grouped - 1) out = {work.shared->group[0] + (size_t)image * pixels * 32, (size_t)count * pixels * 32};
            run_block(work, i, in, out, 1);
            in = out;
            side ^= 1;
        }
    }
    Map in{work.shared->group[0], (size_t)count * p.blocks[p.grouped - 1].out_pixels() * 32};
    int side = 1;
    for (int i = p.grouped; i < total; i++) {
        const Map out{work.shared->group[side], (size_t)count * p.blocks[i].out_pixels() * 32};
        run_block(work, i, in, out, count);
        in = out;
        side ^= 1;
    }
    clear_overflow();
    head_wide ? run_head<Wide>(work, in, count, first_in_chunk, features) : run_head<Half>(work, in, count, first_in_chunk, features);
    if (overflow() && !head_wide) head_overflowed = true;
}

void phi_engine::pass(const float *images, int batch, float *logits, float *embedding, float *features) {
    Plan &p = *plan;
    const int threads = team->size();
    const size_t image_size = (size_t)net.in_channels * p.height * p.width, feature_size = (size_t)last_width * p.feature_pixels;
    const int each = batch / threads, together = batch - each * threads;  // whole images for each thread; the rest together
    team->run([&](int id) {
        const unsigned csr = _mm_getcsr();
        _mm_setcsr(0x1f80);  // round to nearest, no traps, flags clear
        amx_begin();
        auto stretch = [&](const Work &work, int from, int count) {
            for (int chunk = 0; chunk < count; chunk += CHUNK) {
                const int size = std::min(CHUNK, count - chunk);
                for (int i = 0; i < size; i += GROUP) {
                    const int at = from + chunk + i;
                    images_through(work, images + at * image_size, std::min(GROUP, size - i), i, features ? features + at * feature_size : nullptr);
                }
                work.barrier();
                const int at = from + chunk;
                classify(work, size, logits ? logits + (size_t)at * net.num_classes : nullptr, embedding ? embedding + (size_t)at * last_width : nullptr);
                work.barrier();
            }
        };
        stretch(Work{0, 1, team.get(), &p.buffers[id], &p.scratch[id], &p}, id * each, each);
        if (together) {
            if (threads > 1) team->barrier();
            stretch(Work{id, threads, team.get(), &p.buffers[0], &p.scratch[id], &p}, each * threads, together);
        }
        amx_end();
        _mm_setcsr(csr);
    });
}

void phi_engine::run(const float *images, int batch, int height, int width, float *logits, float *embedding, float *features) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!plan || plan->height != height || plan->width != width) make_plan(height, width);
    for (;;) {
        pass(images, batch, logits, embedding, features);
        bool again = false;  // each turn moves at least one part to fp32, so this ends
        for (auto &block : blocks)
            if (block->overflowed.exchange(false)) block->is_wide = again = true;
        if (head_overflowed.exchange(false)) head_wide = again = true;
        if (!again) return;
    }
}

// ---- C interface ----

namespace {
template <class Fn>
int guarded(char *error, int size, Fn fn) {
    try {
        fn();
        return 0;
    } catch (const std::bad_alloc &) {
        snprintf(error, (size_t)size, "no memory");
    } catch (const std::exception &problem) {
        snprintf(error, (size_t)size, "%s", problem.what());
    }
    return 1;
}
}  // namespace

int phi_abi(void) { return PHI_ABI; }

phi_engine *phi_create(const phi_network *network, char *error, int error_size) {
    phi_engine *engine = nullptr;
    guarded(error, error_size, [&] {
        constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
        if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)) throw std::runtime_error("the system does not permit the use of AMX tiles");
        engine = new phi_engine(*network);
    });
    return engine;
}

int phi_run(phi_engine *engine, const float *images, int batch, int height, int width, float *logits, float *embedding, float *features, char *error,
            int error_size) {
    return guarded(error, error_size, [&] {
        if (engine->owner != getpid()) throw std::runtime_error("this engine was made before a fork; load it again in this process");
        engine->run(images, batch, height, width, logits, embedding, features);
    });
}

int64_t phi_bytes(phi_engine *engine) {
    std::lock_guard<std::mutex> lock(engine->mutex);
    return (int64_t)(engine->arena.bytes() + (engine->plan ? engine->plan->arena.bytes() : 0));
}

int phi_wide_blocks(phi_engine *engine) {
    int count = engine->head_wide;
    for (auto &block : engine->blocks) count += block->is_wide;
    return count;
}

void phi_destroy(phi_engine *engine) {
    if (engine->owner == getpid()) delete engine;  // after a fork there are no workers to join; the memory goes with the process
}
