// A folded EfficientNet-like network, at the level that level.h names. See docs/native-runtime.md for the idea.
//
// Between blocks a map is [slabs of channels][pixels][SLAB]. Inside a depthwise block a few slabs at a time are expanded, a few rows
// at a time, into small rings of rows from which the depthwise convolution reads, so that the expanded map never leaves the cache.
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "arena.h"
#include "bytes.h"
#include "depthwise.h"
#include "engine.h"
#include "level.h"
#include "team.h"

namespace phi {
namespace {

constexpr int GROUP_PIXELS = 16 * 16;  // maps up to this size run several images at a time: one reading of the weights serves all
constexpr int GROUP = 4;
constexpr int CHUNK = 64;        // images whose pooled features wait for one multiplication by the classifier
constexpr int BAND_PIXELS = 448;  // pixels that are expanded at a time
constexpr float HALF_MAX = 65504;  // the largest half-precision number
constexpr size_t SLACK = 64 * 32;  // elements behind every map: a tile of 16 pixels may read beyond the last one
constexpr bool HALF = !std::is_same_v<Fast, Exact>;  // blocks run in half precision where they can

int slabs(int channels) { return up(channels, SLAB) / SLAB; }

}  // namespace
}  // namespace phi

// Clock ticks of the parts of a run on one thread, in the builds of benchmarks/native_floor.py
#if defined(PHI_PROFILE)
PHI_API uint64_t phi_ticks[4 + 3 * 1024];  // whole run, image, head, classifier; then expand and depthwise, scale, project of each block
uint64_t phi_ticks[4 + 3 * 1024];
struct Timed {
    uint64_t &total, start = __rdtsc();
    explicit Timed(int part) : total(phi_ticks[part]) {}
    ~Timed() { total += __rdtsc() - start; }
};
#define TIMED(part) const Timed timed(part)
#else
#define TIMED(part)
#endif

namespace phi {
namespace {

// ---- weights, packed once ----

struct SqueezeExcite {
    int width = 0, padded = 0;                        // padded to SLAB
    Gate *reduce = nullptr;                           // [channels][padded]: contiguous in the hidden width
    Gate *gate = nullptr;                             // [slab][width][SLAB]
    float *reduce_bias = nullptr, *gate_bias = nullptr;
};

struct Next {  // how what comes next reads the map: as elems, as bytes, as both
    bool elems = true, bytes = false;
    Quantiser quantiser;
};

struct Block {
    phi_block it;  // its weight pointers are not used after packing
    int slabs_in, slabs_mid, slabs_out;
    bool expands;
    Packed expand, project;
    PackedBytes expand_bytes, project_bytes;  // in the place of those, where they run in int8
    float *project_floats = nullptr, *project_bias = nullptr;  // before squeeze-excite's gates: [group][inputs][outputs of the group], [slab][SLAB]
    float *se_means = nullptr;                // of what squeeze-excite reads, [slab][SLAB]
    bool expands_bytes = false, projects_bytes = false;
    Quantiser expand_in, project_in, se_in;
    Next next;
    Fast::Weight *fast = nullptr, *fast_bias = nullptr;  // depthwise [slab][k * k][SLAB], [slab][SLAB]
    Exact::Weight *exact = nullptr, *exact_bias = nullptr;
    SqueezeExcite se;
    std::atomic<bool> is_wide{false}, overflowed{false};
    bool project_is_1x1() const { return it.kind == PHI_DEPTHWISE || expands; }
};

// ---- sizes of one block for one image size ----

struct Geometry {
    int height, width, out_height, out_width, top, left;  // pixels; padding before the first row and column
    int pixels() const { return height * width; }
    int out_pixels() const { return out_height * out_width; }
    // the ring (depthwise) or band (full) of zero-bordered input rows
    int row_pixels, ring_rows, band;  // band: output rows at a time
    size_t ring_size() const { return (size_t)ring_rows * row_pixels * SLAB; }
    bool whole;                       // the ring holds the whole map
    bool folds;                       // squeeze-excite scales the projection's weights, not the map
    std::vector<ptrdiff_t> taps;      // full: where each k-tile starts
};

int bands(const Geometry &g) { return (g.out_height + g.band - 1) / g.band; }

// The units of a depthwise block: a group of slabs each; the groups that are left when each thread has had as many are cut into parts of
// their rows.
struct Units {
    int uncut, left, cuts;
    Units(Groups groups, const Geometry &g, int threads)
        : uncut(groups.count() / threads * threads), left(groups.count() - uncut), cuts(std::clamp(g.out_height / 8, 1, uncut ? threads : 2 * threads)) {}
    int count() const { return uncut + left * cuts; }
};

struct Buffers {  // of a team that works on the same images
    elem *image = nullptr, *map[2] = {}, *group[2] = {}, *mid = nullptr, *pooled = nullptr;
    Byte *map_bytes[2] = {}, *group_bytes[2] = {}, *mid_bytes = nullptr;  // of a level with int8
    float *embedding = nullptr;  // [CHUNK][features]
    float *hidden = nullptr;     // [unit][image][width]: what each unit of a block brings to squeeze-excite's first layer
};
struct Scratch {  // of one thread
    void *ring = nullptr;     // Elem of the precision, or elem in full blocks
    elem *weights = nullptr;  // a projection's, scaled by squeeze-excite
    ByteWeight *byte_weights = nullptr;  // the same in int8, with its biases and scales [channels]
    float *byte_bias = nullptr, *byte_scale = nullptr;
    float *gates = nullptr, *hidden = nullptr;  // [channels], [GROUP][width]
    ptrdiff_t *offsets = nullptr;               // of a 1x1 convolution's k-tiles
};

struct Plan {  // everything that depends on the image size
    int height = 0, width = 0;
    Geometry stem;
    std::vector<Geometry> blocks;
    std::vector<ptrdiff_t> stem_taps;
    Image image{};
    int grouped = 0;    // blocks from here on run GROUP images at a time
    int features = 0, feature_pixels = 0;
    Arena arena;
    std::vector<Buffers> buffers;  // one a thread; number 0 also serves all threads together
    std::vector<Scratch> scratch;
};

// ---- packing ----

[[maybe_unused]] void narrow(float &to, float from) { to = from; }
[[maybe_unused]] void narrow(bf16 &to, float from) { to = to_bf16(from); }

// place(out, in, ky, kx) says where a weight goes
template <class Place>
void fill(Arena &arena, Packed &packed, const float *weights, const float *bias, int out, int in, int kernel, Place place) {
    packed.weights = arena.take<elem>(packed.size());
    packed.bias = arena.take<float>((size_t)slabs(out) * SLAB);
    for (int o = 0; o < out; o++) {
        packed.bias[o] = bias[o];
        for (int i = 0; i < in; i++)
            for (int ky = 0; ky < kernel; ky++)
                for (int kx = 0; kx < kernel; kx++) packed.weights[place(o, i, ky, kx)] = to_elem(*weights++);
    }
}

void pack(Arena &arena, Packed &packed, const float *weights, const float *bias, int out, int in, int kernel) {
    const int in_slabs = slabs(in);
    packed = Packed(out, in_slabs, kernel * kernel, in - (in_slabs - 1) * SLAB);
    fill(arena, packed, weights, bias, out, in, kernel,
         [&](int o, int i, int ky, int kx) { return packed.place(o, (ky * kernel + kx) * in_slabs + i / SLAB, i % SLAB); });
}

bool is_given(phi_range range) { return INT8 && range.low < range.high; }
Quantiser quantiser(phi_range range) {
    const float low = std::min(range.low, 0.f), scale = (std::max(range.high, 0.f) - low) / 255;  // zero has a byte of its own
    return {1 / scale, std::round(-low / scale), scale};
}

// A 1x1 convolution's weights [out][in] as bytes.
template <class P>
void pack_bytes([[maybe_unused]] Arena &arena, [[maybe_unused]] P &packed, [[maybe_unused]] const float *weights, [[maybe_unused]] const float *bias,
                [[maybe_unused]] int out, [[maybe_unused]] int in, [[maybe_unused]] phi_range range) {
    if constexpr (INT8) {
        const Quantiser input = quantiser(range);
        packed = P(out, slabs(in), 1, in - (slabs(in) - 1) * SLAB);
        packed.weights = arena.take<ByteWeight>(packed.size());
        packed.bias = arena.take<float>((size_t)slabs(out) * SLAB);
        packed.scale = arena.take<float>((size_t)slabs(out) * SLAB);
        for (int o = 0; o < out; o++, weights += in) {
            float most = 0;
            for (int i = 0; i < in; i++) most = std::max(most, std::fabs(weights[i]));
            const float step = std::max(most, 1e-30f) / MOST_WEIGHT;  // of nothing but zeros too
            int sum = 0;
            float drift = 0;
            for (int i = 0; i < in; i++) {
                const int whole = (int)std::lrint(weights[i] / step);
                packed.weights[packed.place(o, i / SLAB, i % SLAB)] = (ByteWeight)whole;
                sum += whole;
                drift += ((float)whole * step - weights[i]) * range.means[i];
            }
            packed.scale[o] = step * input.scale;
            packed.bias[o] = bias[o] - drift - input.zero * (float)sum * packed.scale[o];
        }
    }
}

// The 1x1 projection of a block with squeeze-excite as fold_gates() reads it.
template <class P>
void pack_gated([[maybe_unused]] Arena &arena, [[maybe_unused]] Block &block, [[maybe_unused]] const P &packed, [[maybe_unused]] const float *means) {
    if constexpr (INT8) {
        block.se_means = arena.take<float>((size_t)block.slabs_mid * SLAB);
        memcpy(block.se_means, means, sizeof(float) * block.it.w_mid);
        float *const floats = block.project_floats = arena.take<float>(packed.size());
        block.project_bias = arena.take<float>((size_t)block.slabs_out * SLAB);
        const float *weights = block.it.project_w;
        for (int o = 0; o < block.it.w_out; o++) {
            block.project_bias[o] = block.it.project_b[o];
            const int group = packed.groups.of(o / SLAB), outputs = packed.groups.width(group) * SLAB;
            float *const to = floats + packed.start(group) + (o - packed.groups.first(group) * SLAB);
            for (int i = 0; i < block.it.w_mid; i++) to[(size_t)i * outputs] = *weights++;
        }
    }
}

template <class P>
void redirect([[maybe_unused]] P &packed, [[maybe_unused]] ByteWeight *weights, [[maybe_unused]] float *scale, [[maybe_unused]] float *bias) {
    if constexpr (INT8) packed.weights = weights, packed.scale = scale, packed.bias = bias;
}

void pack_stem(Arena &arena, Packed &packed, const float *weights, const float *bias, int out, int in, int kernel) {
    packed = Packed(out, 1, Image::tiles(in, kernel), Image::tail(kernel));
    fill(arena, packed, weights, bias, out, in, kernel,
         [&](int o, int i, int ky, int kx) { return packed.place(o, Image::tile(i, ky, kernel), Image::within(i, kx)); });
}

void pack_depthwise(Arena &arena, Block &block) {
    const int taps = block.it.kernel * block.it.kernel, padded = block.slabs_mid * SLAB;
    auto put = [&](auto *&weights, auto *&bias) {
        using Weight = std::remove_reference_t<decltype(*weights)>;
        weights = arena.take<Weight>((size_t)padded * taps);
        bias = arena.take<Weight>(padded);
        for (int c = 0; c < block.it.w_mid; c++) {
            for (int tap = 0; tap < taps; tap++)
                weights[((size_t)(c / SLAB) * taps + tap) * SLAB + c % SLAB] = (Weight)block.it.depthwise_w[(size_t)c * taps + tap];
            bias[c] = (Weight)block.it.depthwise_b[c];
        }
    };
    put(block.exact, block.exact_bias);
    if constexpr (HALF) {
        put(block.fast, block.fast_bias);
        for (size_t i = 0; i < (size_t)block.it.w_mid * taps; i++)
            if (std::fabs(block.it.depthwise_w[i]) > HALF_MAX || std::fabs(block.it.depthwise_b[i / taps]) > HALF_MAX) block.is_wide = true;
    }
}

void pack_squeeze_excite(Arena &arena, Block &block) {
    SqueezeExcite &se = block.se;
    const int channels = block.slabs_mid * SLAB;
    se.width = block.it.w_se;
    se.padded = up(se.width, SLAB);
    se.reduce = arena.take<Gate>((size_t)channels * se.padded);
    se.reduce_bias = arena.take<float>(se.padded);
    se.gate = arena.take<Gate>((size_t)se.width * channels);
    se.gate_bias = arena.take<float>(channels);
    for (int h = 0; h < se.width; h++) {
        se.reduce_bias[h] = block.it.reduce_b[h];
        for (int c = 0; c < block.it.w_mid; c++) {
            narrow(se.reduce[(size_t)c * se.padded + h], block.it.reduce_w[(size_t)h * block.it.w_mid + c]);
            narrow(se.gate[((size_t)(c / SLAB) * se.width + h) * SLAB + c % SLAB], block.it.gate_w[(size_t)c * se.width + h]);
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
    PackedBytes head_bytes;
    bool heads_bytes = false;  // the head's convolution runs in int8
    std::vector<std::unique_ptr<Block>> blocks;
    std::atomic<bool> head_wide{false}, head_overflowed{false};
    std::unique_ptr<Team> team;
    std::unique_ptr<Plan> plan;
    std::mutex mutex;
    const pid_t owner = getpid();

  private:
    struct Work {  // one thread's view of a piece of work
        int size;  // threads that share it; 1: alone
        Team *team;
        int *phase;
        Buffers *shared;
        Scratch *own;
        Plan *plan;
        // fn(i) for i in [0, count), each once, and prepare() before this thread's first; returns when all are done
        template <class Prepare, class Fn>
        void each(int count, Prepare prepare, Fn fn) const {
            if (size > 1) return team->each((*phase)++, count, prepare, fn);
            prepare();
            for (int i = 0; i < count; i++) fn(i);
        }
        // fn(first, last) for parts of [0, count), of `least` at least
        template <class Fn>
        void parts(int count, int least, Fn fn) const {
            const int wanted = size > 1 ? std::clamp(count / least, 1, 4 * size) : 1;
            each(wanted, [] {}, [&](int i) { fn((int)((int64_t)count * i / wanted), (int)((int64_t)count * (i + 1) / wanted)); });
        }
        // the k-tiles of a 1x1 convolution: one a slab
        const ptrdiff_t *steps(size_t slab, int count) const {
            for (int s = 0; s < count; s++) own->offsets[s] = (ptrdiff_t)(s * slab);
            return own->offsets;
        }
    };
    struct Map {  // [slab][pixels of all images][SLAB]
        elem *data;
        Byte *bytes;  // the same map in int8; which of the two is filled depends on who reads it (Next)
        size_t slab;  // elements from a slab to the next
    };

    phi_ranges ranges_of(int block) const { return INT8 && net.ranges ? net.ranges[block] : phi_ranges{}; }
    void pack_expansion(Block &block, const phi_ranges &ranges, Next *next);
    void pack_projection(Block &block, const phi_ranges &ranges);
    void make_plan(int height, int width);
    // at most, of a run whose rest is `images`: three a block (expand and depthwise, squeeze-excite, project) and eight more
    size_t phases(int images) const { return 2 + (size_t)images * (3 * blocks.size() + 8); }
    Geometry geometry(int height, int width, int kernel, int stride) const;
    void pass(const float *images, int batch, float *logits, float *embedding, float *features);
    void images_through(const Work &work, const float *images, int count, int first_in_chunk, float *features);
    void classify(const Work &work, int count, float *logits, float *embedding);
    void load_image(const Work &work, const float *image);
    template <class P, class Done>
    void stem_rows(const Work &work, int group, int first, int last, Done done);
    void stem_alone(const Work &work, Map out);
    void image_alone(const Work &work, const float *image, Map out);
    void run_block(const Work &work, int index, Map in, Map out, int images);
    template <class P>
    int depthwise_units(const Work &work, int index, Map in, Map mid, int images);
    template <class P>
    int full_rows(const Work &work, int index, Map in, Map mid, Map out, int images);
    const float *hidden(const Work &work, const Block &block, int units, int images, int image) const;
    void scale(const Work &work, int index, Map mid, int images, int units);
    template <class Input, class Weights, class Prepare>
    void project(const Work &work, int index, const Input *map, Weights packed, Map mid, Map in, Map out, int images, Prepare fold);
    void project(const Work &work, int index, Map mid, Map in, Map out, int images, int units);
    template <class P>
    void run_head(const Work &work, Map in, int images, int first_in_chunk, float *features);
};

phi_engine::phi_engine(const phi_network &network) : net(network) {
    last_width = net.stem_width ? net.stem_width : net.in_channels;
    stem_slabs = slabs(last_width);
    if (net.stem_width) pack_stem(arena, stem, net.stem_w, net.stem_b, net.stem_width, net.in_channels, net.stem_kernel);
    Next *before = nullptr;  // of the block before, where its 1x1 projection can write bytes
    for (int i = 0; i < net.block_count; i++) {
        blocks.push_back(std::make_unique<Block>());
        Block &block = *blocks.back();
        const phi_block &it = block.it = net.blocks[i];
        block.expands = it.expand_w != nullptr;
        block.slabs_in = slabs(it.w_in), block.slabs_mid = slabs(it.w_mid), block.slabs_out = slabs(it.w_out);
        block.is_wide = it.wide != 0;
        if (it.kind == PHI_DEPTHWISE) {
            if (block.expands) pack_expansion(block, ranges_of(i), before);
            pack_depthwise(arena, block);
            pack_projection(block, ranges_of(i));
        } else if (block.expands) {
            pack(arena, block.expand, it.expand_w, it.expand_b, it.w_mid, it.w_in, it.kernel);
            pack_projection(block, ranges_of(i));
        } else {
            pack(arena, block.project, it.project_w, it.project_b, it.w_out, it.w_in, it.kernel);
        }
        if (it.w_se) pack_squeeze_excite(arena, block);
        last_width = it.w_out;
        before = block.project_is_1x1() ? &block.next : nullptr;
    }
    if (net.head_width) {
        const phi_range range = ranges_of(net.block_count).project;
        heads_bytes = before && is_given(range);
        if (heads_bytes) {
            *before = {false, true, quantiser(range)};
            pack_bytes(arena, head_bytes, net.head_w, net.head_b, net.head_width, last_width, range);
        }
        if (!heads_bytes) pack(arena, head, net.head_w, net.head_b, net.head_width, last_width, 1);
        last_width = net.head_width;
    }
    if (net.num_classes) pack(arena, classifier, net.classifier_w, net.classifier_b, net.num_classes, last_width, 1);
    team = std::make_unique<Team>(net.threads, phases(net.threads));
}

// next: of the block before; null where what comes before writes elems
void phi_engine::pack_expansion(Block &block, const phi_ranges &ranges, Next *next) {
    const phi_block &it = block.it;
    block.expands_bytes = next && is_given(ranges.expand);
    if (!block.expands_bytes) return pack(arena, block.expand, it.expand_w, it.expand_b, it.w_mid, it.w_in, 1);
    *next = {it.skips != 0, true, quantiser(ranges.expand)};
    pack_bytes(arena, block.expand_bytes, it.expand_w, it.expand_b, it.w_mid, it.w_in, ranges.expand);
}

void phi_engine::pack_projection(Block &block, const phi_ranges &ranges) {
    const phi_block &it = block.it;
    block.projects_bytes = is_given(ranges.project) && (!it.w_se || is_given(ranges.se));
    if (!block.projects_bytes) return pack(arena, block.project, it.project_w, it.project_b, it.w_out, it.w_mid, 1);
    block.project_in = quantiser(ranges.project);
    pack_bytes(arena, block.project_bytes, it.project_w, it.project_b, it.w_out, it.w_mid, ranges.project);
    if (!it.w_se) return;
    block.se_in = quantiser(ranges.se);
    pack_gated(arena, block, block.project_bytes, ranges.se.means);
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
    p.image.row_pixels = up(std::max(p.stem.row_pixels, (up(p.stem.out_width, PIECE) - 1) * net.stem_stride + 8), 8);
    p.image.rows = height + 2 * net.stem_kernel;
    for (int tile = 0; tile < stem.k_tiles; tile++) p.stem_taps.push_back(p.image.offset(tile, net.stem_kernel));

    const int threads = team->size();
    size_t map = 0, mid = 0, ring = 0, weights = 0, channels = 0, hidden = 0, units = 0, together = 0;
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
        channels = std::max<size_t>(channels, (size_t)std::max({block.slabs_in, block.slabs_mid, block.slabs_out}) * SLAB);
        if (it.kind == PHI_DEPTHWISE) {
            g.whole = h * w <= GROUP_PIXELS;
            g.band = g.whole ? g.out_height : std::max(1, BAND_PIXELS / w / it.stride);
            const int rows = g.whole ? std::max(g.top + h, (g.out_height - 1) * it.stride + it.kernel)
                                     : (g.band - 1) * it.stride + it.kernel + g.band * it.stride;
            for (g.ring_rows = 1; g.ring_rows < rows;) g.ring_rows *= 2;
            ring = std::max(ring, sizeof(Exact::Elem) * (g.ring_size() * images * std::min(Groups::LARGEST, block.slabs_mid) + SLACK));
            mid = std::max(mid, (size_t)block.slabs_mid * g.out_pixels() * images);
            weights = std::max({weights, block.project.size(), block.project_bytes.size()});
        } else {
            // the last tile of a row reads up to 31 outputs beyond it
            g.row_pixels = std::max(g.row_pixels, (up(g.out_width, PIECE) - 1) * it.stride + it.kernel);
            g.band = std::min(g.out_height, std::max(1, 2 * BAND_PIXELS / g.out_width));
            g.ring_rows = (g.band - 1) * it.stride + it.kernel;
            const size_t slab = g.ring_size();
            for (int ky = 0; ky < it.kernel; ky++)
                for (int kx = 0; kx < it.kernel; kx++)
                    for (int s = 0; s < block.slabs_in; s++) g.taps.push_back((ptrdiff_t)(s * slab + ((size_t)ky * g.row_pixels + kx) * SLAB));
            ring = std::max(ring, sizeof(elem) * (slab * block.slabs_in + SLACK));
            if (block.expands) {
                mid = std::max(mid, (size_t)block.slabs_mid * g.out_pixels() * images);
                weights = std::max({weights, block.project.size(), block.project_bytes.size()});
            }
        }
        if (it.w_se) {
            hidden = std::max<size_t>(hidden, block.se.padded);
            const Groups groups{block.slabs_mid};
            const bool full = it.kind == PHI_FULL;
            units = std::max<size_t>(units, (size_t)block.se.padded * (full ? bands(g) : groups.count()));
            together = std::max<size_t>(together, (size_t)block.se.padded * (full ? bands(g) : Units(groups, g, threads).count()));
        }
        // folding writes the projection's weights once an image; scaling writes the map
        g.folds = images == 1 && g.out_pixels() > 2 * it.w_out;
        if (images == 1) map = std::max(map, out);
        p.blocks.push_back(std::move(g));
        h = p.blocks.back().out_height, w = p.blocks.back().out_width;
    }
    p.feature_pixels = h * w;
    p.features = slabs(last_width) * SLAB;
    size_t group = 0;
    for (size_t i = (size_t)p.grouped; i < blocks.size() + 1; i++)  // the input of the first grouped block, and all outputs after it
        if (i > 0) group = std::max(group, (size_t)blocks[i - 1]->slabs_out * p.blocks[i - 1].out_pixels() * GROUP);

    channels = std::max<size_t>(channels, p.features);
    for (int t = 0; t < threads; t++) {
        Buffers b;
        if (net.stem_width) b.image = p.arena.take<elem>(p.image.size(net.in_channels) + SLACK);
        for (int i = 0; i < 2; i++) b.map[i] = p.arena.take<elem>(map * SLAB + SLACK), b.group[i] = p.arena.take<elem>(group * SLAB + SLACK);
        b.mid = p.arena.take<elem>(mid * SLAB + SLACK);
        if (INT8) {
            for (int i = 0; i < 2; i++) b.map_bytes[i] = p.arena.take<Byte>(map * SLAB + SLACK), b.group_bytes[i] = p.arena.take<Byte>(group * SLAB + SLACK);
            b.mid_bytes = p.arena.take<Byte>(mid * SLAB + SLACK);
        }
        b.pooled = p.arena.take<elem>((size_t)CHUNK * p.features + SLACK);
        b.embedding = p.arena.take<float>((size_t)CHUNK * p.features);
        b.hidden = p.arena.take<float>(GROUP * std::max(units, t ? 0 : together) + SLAB);
        p.buffers.push_back(b);
        Scratch s;
        s.ring = p.arena.take<char>(ring);
        s.weights = p.arena.take<elem>(weights);
        s.gates = p.arena.take<float>(channels);
        if (INT8) {
            s.byte_weights = p.arena.take<ByteWeight>(weights);
            s.byte_bias = p.arena.take<float>(channels), s.byte_scale = p.arena.take<float>(channels);
        }
        s.hidden = p.arena.take<float>(GROUP * hidden + SLAB);
        s.offsets = p.arena.take<ptrdiff_t>(channels / SLAB + 1);
        p.scratch.push_back(s);
    }
    plan = std::move(fresh);
}

// ---- writing into a ring of zero-bordered rows ----

namespace {

// Where the next pixel of a map goes: row after row, then the next image's ring.
template <class P>
struct RingCursor {
    typename P::Elem *ring;
    size_t next_ring;
    const Geometry *g;
    int y, x = 0;

    template <class Value>
    __attribute__((always_inline)) void put(int count, Value value) {
        for (int r = 0; r < count;) {
            const int run = std::min(count - r, g->width - x);
            typename P::Elem *to = ring + ((size_t)((y + g->top) & (g->ring_rows - 1)) * g->row_pixels + g->left + x) * SLAB;
#pragma GCC unroll 4
            for (int i = 0; i < run; i++) P::store(to + (size_t)i * SLAB, value(r + i));
            r += run, x += run;
            if (x == g->width) {
                x = 0;
                if (++y == g->height) y = 0, ring += next_ring;
            }
        }
    }
};

template <class E>
void zero_row(E *ring, const Geometry &g, int y) {
    const size_t size = (size_t)g.row_pixels * SLAB;
    memset(ring + (size_t)((y + g.top) & (g.ring_rows - 1)) * size, 0, size * sizeof(E));
}

template <class E>
void zero_borders(E *ring, const Geometry &g) {
    for (int r = 0; r < g.ring_rows; r++) {
        E *row = ring + (size_t)r * g.row_pixels * SLAB;
        memset(row, 0, sizeof(E) * g.left * SLAB);
        memset(row + (size_t)(g.left + g.width) * SLAB, 0, sizeof(E) * (g.row_pixels - g.left - g.width) * SLAB);
    }
}

// hidden[width] += sums[SLAB] * weights[SLAB][width], one slab's share of squeeze-excite's first layer
void reduce_slab(const SqueezeExcite &se, const float *sums, int slab, float *hidden) {
    for (int h = 0; h < se.padded; h += SLAB) {
        V acc[4] = {load(hidden + h), zero(), zero(), zero()};
        const Gate *weights = se.reduce + (size_t)slab * SLAB * se.padded + h;
        for (int c = 0; c < SLAB; c++) acc[c % 4] = fma(all(sums[c]), load(weights + (size_t)c * se.padded), acc[c % 4]);
        store(hidden + h, add(add(acc[0], acc[1]), add(acc[2], acc[3])));
    }
}

// the gates of one slab
V gate_slab(const SqueezeExcite &se, const float *hidden, int slab) {
    V sum[4] = {load(se.gate_bias + slab * SLAB), zero(), zero(), zero()};
    const Gate *weights = se.gate + (size_t)slab * se.width * SLAB;
    for (int h = 0; h < se.width; h++) sum[h % 4] = fma(all(hidden[h]), load(weights + h * SLAB), sum[h % 4]);
    return sigmoid(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
}

void activate(float *values, int count, int kind) {
    with_act(kind, [&](auto a) {
        for (int i = 0; i < count; i += SLAB) store(values + i, act<decltype(a)::value>(load(values + i)));
    });
}

}  // namespace

// ---- image and stem ----

// float32 [channels][height][width] -> the zero-bordered image that the stem reads
void phi_engine::load_image(const Work &work, const float *image) {
    TIMED(1);
    const Plan &p = *work.plan;
    work.parts(p.height, 16, [&](int first, int last) {
        for (int y = first; y < last; y++)
            load_pixels(p.image, work.shared->image + p.image.at(y + p.stem.top, p.stem.left), image + (size_t)y * p.width, (size_t)p.height * p.width, net.in_channels, p.width);
    });
}

// rows [first, last) of one group of slabs of the stem's output, row by row: done(slab of the group, count, value), value(i) the i-th next pixel
template <class P, class Done>
void phi_engine::stem_rows(const Work &work, int group, int first, int last, Done done) {
    const Plan &p = *work.plan;
    const int size = piece_of(p.stem.out_width), per_row = (p.stem.out_width + size - 1) / size;
    auto rows_at = [&](int i) -> Rows {
        const int y = first + i / per_row, x = i % per_row * size;
        return {work.shared->image + p.image.at(y * net.stem_stride, x * net.stem_stride), std::min(size, p.stem.out_width - x)};
    };
    with_act(net.activation, [&](auto a) __attribute__((always_inline)) {
        gemm((last - first) * per_row, rows_at, p.stem_taps.data(), p.image.step(net.stem_stride), stem, stem.weights, group, 1,
             [&](int, int s, int count, const float *c, int row) __attribute__((always_inline)) {
                 done(s, count, [&](int r) __attribute__((always_inline)) { return act<decltype(a)::value>(P::from(load(c + r * row))); });
             });
    });
}

// the stem's output as a map, where the first block can't take it row by row
void phi_engine::stem_alone(const Work &work, Map out) {
    work.parts(work.plan->stem.out_height, 4, [&](int first, int last) {
        for (int group = 0; group < stem.groups.count(); group++) {
            elem *to[Groups::LARGEST];
            for (int s = 0; s < stem.groups.width(group); s++)
                to[s] = out.data + (stem.groups.first(group) + s) * out.slab + (size_t)first * work.plan->stem.out_width * SLAB;
            stem_rows<Exact>(work, group, first, last, [&](int s, int count, auto value) __attribute__((always_inline)) {
                for (int r = 0; r < count; r++, to[s] += SLAB) store(to[s], Exact::widen(value(r)));
            });
        }
    });
}

// the image as a map, where there is no stem
void phi_engine::image_alone(const Work &work, const float *image, Map out) {
    const int pixels = work.plan->height * work.plan->width;
    work.parts(pixels, 256, [&](int first, int last) {
        for (int c = 0; c < net.in_channels; c++)
            for (int i = first; i < last; i++) out.data[c / SLAB * out.slab + (size_t)i * SLAB + c % SLAB] = to_elem(image[(size_t)c * pixels + i]);
    });
}

namespace {
// Whether the map between a block's two halves is written as bytes before squeeze-excite: its gates go into the weights, or there is none.
bool mid_in_bytes(const Block &block, const Geometry &g) { return INT8 && block.projects_bytes && (!block.it.w_se || g.folds); }
}  // namespace

// ---- a depthwise block up to its squeeze-excite: expand, depthwise; the number of its units ----

template <class P>
int phi_engine::depthwise_units(const Work &work, int index, Map in, Map mid, int images) {
    Block &block = *blocks[index];
    const phi_block &it = block.it;
    const Geometry &g = work.plan->blocks[index];
    const bool from_stem = in.data == nullptr;
    const size_t ring_size = g.ring_size();
    using Elem = typename P::Elem;
    Elem *const rings = (Elem *)work.own->ring;  // [slab of the group][image]
    const Groups groups{block.slabs_mid};
    const int in_ring = g.whole ? images : 1;
    DepthwiseJob job{};
    job.row_pixels = g.row_pixels, job.row_mask = g.ring_rows - 1;
    job.activation = net.activation, job.out_width = g.out_width;
    const ptrdiff_t *offsets = nullptr;
    const bool puts_bytes = mid_in_bytes(block, g);
    const auto run = puts_bytes ? depthwise_for<typename P::ByteLane>(it.kernel, it.stride, g.out_width)
                                : depthwise_for<typename P::Lane>(it.kernel, it.stride, g.out_width);
    job.quantiser = it.w_se ? block.se_in : block.project_in;
    const int taps = it.kernel * it.kernel;

    // input rows [first, last) of `count` images from the image-th on, into as many rings of each slab of the group
    auto produce = [&](int group, int image, int count, int first, int last) {
        const int m0 = first * g.width, m1 = (count - 1) * g.pixels() + last * g.width;
        RingCursor<P> cursors[Groups::LARGEST];
        for (int s = 0; s < groups.width(group); s++) cursors[s] = {rings + s * in_ring * ring_size, ring_size, &g, first};
        if (from_stem) {
            stem_rows<P>(work, group, first, last, [&](int s, int n, auto value) __attribute__((always_inline)) { cursors[s].put(n, value); });
            return;
        }
        if (!block.expands) {
            for (int s = 0; s < groups.width(group); s++) {
                const elem *from = in.data + (groups.first(group) + s) * in.slab + ((size_t)image * g.pixels() + m0) * SLAB;
                cursors[s].put(m1 - m0, [&](int r) __attribute__((always_inline)) { return P::from(load(from + (size_t)r * SLAB)); });
            }
            return;
        }
        auto expand = [&](const auto *map, const auto &packed) {
            const auto *from = map + (size_t)image * g.pixels() * SLAB;
            const int size = piece_of(m1 - m0);
            auto rows_at = [&](int i) -> Rows { return {from + (size_t)(m0 + i * size) * SLAB, std::min(size, m1 - m0 - i * size)}; };
            with_act(net.activation, [&](auto a) __attribute__((always_inline)) {
                gemm((m1 - m0 + size - 1) / size, rows_at, offsets, SLAB, packed, packed.weights, group, work.size,
                     [&](int, int s, int n, const float *c, int row) __attribute__((always_inline)) {
                         cursors[s].put(n, [&](int r) __attribute__((always_inline)) { return act<decltype(a)::value>(P::from(load(c + r * row))); });
                     });
            });
        };
        INT8 && block.expands_bytes ? expand(in.bytes, block.expand_bytes) : expand(in.data, block.expand);
    };
    // fn(ring, slab) for each slab of a group
    auto each_slab = [&](int group, int image, auto fn) {
        for (int s = 0; s < groups.width(group); s++) fn(rings + (s * in_ring + image) * ring_size, groups.first(group) + s);
    };
    auto convolve = [&](Elem *ring, int slab, int image, int first, int last, float *sum) {
        if constexpr (std::is_same_v<P, Fast> && HALF) {
            job.weights = block.fast + (size_t)slab * taps * SLAB, job.bias = block.fast_bias + slab * SLAB;
        } else {
            job.weights = block.exact + (size_t)slab * taps * SLAB, job.bias = block.exact_bias + slab * SLAB;
        }
        const size_t at = slab * mid.slab + (size_t)image * g.out_pixels() * SLAB;
        job.out = puts_bytes ? (void *)(mid.bytes + at) : (void *)(mid.data + at);
        job.ring = ring, job.first = first, job.last = last;
        job.sum = it.w_se ? sum : nullptr;
        run(job);
    };
    // output rows [first, last) of one image, a band at a time; sums: [slab of the group][SLAB]
    auto banded = [&](int group, int image, int first, int last, float (*sums)[SLAB]) {
        const int band_in = g.band * it.stride;
        const int end = std::min(g.height, (last - 1) * it.stride - g.top + it.kernel);  // input rows that these outputs need
        int next = std::max(0, first * it.stride - g.top);
        for (int y = first * it.stride - g.top; y < 0; y++) each_slab(group, 0, [&](Elem *ring, int) { zero_row(ring, g, y); });
        for (int y = first; y < last; y += g.band) {
            const int stop = std::min(last, y + g.band), need = (stop - 1) * it.stride - g.top + it.kernel;
            if (std::min(need, g.height) > next) {
                const int to = std::min(end, next + up(std::min(need, g.height) - next, band_in));
                produce(group, image, 1, next, to);
                next = to;
            }
            for (int below = g.height; below < need; below++) each_slab(group, 0, [&](Elem *ring, int) { zero_row(ring, g, below); });
            each_slab(group, 0, [&](Elem *ring, int slab) { convolve(ring, slab, image, y, stop, sums[slab - groups.first(group)]); });
        }
    };

    const Units units(groups, g, work.size);
    auto prepare = [&] {
        for (int i = 0; i < in_ring * std::min(Groups::LARGEST, groups.slabs); i++) zero_borders(rings + i * ring_size, g);
        offsets = work.steps(in.slab, block.slabs_in);
    };
    work.each(units.count(), prepare, [&](int unit) {
        const int beyond = unit - units.uncut, parts = beyond < 0 ? 1 : units.cuts;
        const int group = beyond < 0 ? unit : units.uncut + beyond / parts, part = beyond < 0 ? 0 : beyond % parts;
        const int first = g.out_height * part / parts, last = g.out_height * (part + 1) / parts;
        alignas(64) float sums[GROUP][Groups::LARGEST][SLAB] = {};
        if (g.whole && parts == 1 && images > 1) {  // all images at once
            for (int i = 0; i < images; i++)
                each_slab(group, i, [&](Elem *ring, int) {
                    for (int y = -g.top; y < 0; y++) zero_row(ring, g, y);
                    for (int y = g.height; y < (g.out_height - 1) * it.stride - g.top + it.kernel; y++) zero_row(ring, g, y);
                });
            produce(group, 0, images, 0, g.height);
            for (int i = 0; i < images; i++)
                each_slab(group, i, [&](Elem *ring, int slab) { convolve(ring, slab, i, 0, g.out_height, sums[i][slab - groups.first(group)]); });
        } else {
            for (int i = 0; i < images; i++) banded(group, i, first, last, sums[i]);
        }
        if (!it.w_se) return;
        for (int i = 0; i < images; i++) {
            float *hidden = work.shared->hidden + ((size_t)unit * images + i) * block.se.padded;
            memset(hidden, 0, sizeof(float) * block.se.padded);
            for (int s = 0; s < groups.width(group); s++) {
                for (float &sum : sums[i][s]) sum /= (float)g.out_pixels();
                reduce_slab(block.se, sums[i][s], groups.first(group) + s, hidden);
            }
        }
    });
    return units.count();
}

// ---- a full block up to its squeeze-excite (or up to its end, where it has no expansion); the number of its units ----

template <class P>
int phi_engine::full_rows(const Work &work, int index, Map in, Map mid, Map out, int images) {
    Block &block = *blocks[index];
    const phi_block &it = block.it;
    const Geometry &g = work.plan->blocks[index];
    const Packed &conv = block.expands ? block.expand : block.project;
    const Map to = block.expands ? mid : out;
    const bool adds = !block.expands && it.skips, puts_bytes = block.expands && mid_in_bytes(block, g);
    const Quantiser quantiser = it.w_se ? block.se_in : block.project_in;
    elem *const rows = (elem *)work.own->ring;
    const size_t slab_size = g.ring_size();
    const int size = piece_of(g.out_width), per_row = (g.out_width + size - 1) / size;
    auto prepare = [&] {
        for (int s = 0; s < block.slabs_in; s++) zero_borders(rows + s * slab_size, g);
    };
    work.each(bands(g), prepare, [&](int unit) {
        const int y = unit * g.band, stop = std::min(g.out_height, y + g.band);
        for (int image = 0; image < images; image++) {
            float *hidden = work.shared->hidden + ((size_t)unit * images + image) * block.se.padded;
            if (it.w_se) memset(hidden, 0, sizeof(float) * block.se.padded);
            for (int s = 0; s < block.slabs_in; s++)
                for (int r = 0; r < (stop - y - 1) * it.stride + it.kernel; r++) {
                    const int from = y * it.stride - g.top + r;
                    elem *row = rows + s * slab_size + ((size_t)r * g.row_pixels + g.left) * SLAB;
                    if (from < 0 || from >= g.height)
                        memset(row, 0, sizeof(elem) * g.width * SLAB);
                    else
                        memcpy(row, in.data + s * in.slab + ((size_t)image * g.pixels() + (size_t)from * g.width) * SLAB, sizeof(elem) * g.width * SLAB);
                }
            auto rows_at = [&](int i) -> Rows {
                const int line = i / per_row, x = i % per_row * size;
                return {rows + ((size_t)line * it.stride * g.row_pixels + (size_t)x * it.stride) * SLAB, std::min(size, g.out_width - x)};
            };
            const size_t start = ((size_t)image * g.out_pixels() + (size_t)y * g.out_width) * SLAB;
            for (int group = 0; group < conv.groups.count(); group++) {
                const int first_slab = conv.groups.first(group), width = conv.groups.width(group);
                size_t at[Groups::LARGEST];
                V sum[Groups::LARGEST];
                for (int s = 0; s < width; s++) at[s] = start, sum[s] = zero();
                with_act(net.activation, [&](auto a) __attribute__((always_inline)) {
                    gemm((stop - y) * per_row, rows_at, g.taps.data(), (size_t)it.stride * SLAB, conv, conv.weights, group, 1,
                         [&](int, int s, int count, const float *c, int row) __attribute__((always_inline)) {
                             elem *write = to.data + (first_slab + s) * to.slab + at[s];
                             [[maybe_unused]] Byte *bytes = to.bytes + (INT8 ? (first_slab + s) * to.slab + at[s] : 0);
                             const elem *read = in.data + (adds ? (first_slab + s) * in.slab + at[s] : 0);
                             V total = sum[s];
                             for (int r = 0; r < count; r++, write += SLAB, read += SLAB) {
                                 V v = P::widen(act<decltype(a)::value>(P::from(load(c + r * row))));
                                 if (it.w_se) total = add(total, v);
                                 if (adds) v = add(v, load(read));
                                 puts_bytes ? store(bytes + (size_t)r * SLAB, v, quantiser) : store(write, v);
                             }
                             sum[s] = total;
                             at[s] += (size_t)count * SLAB;
                         });
                });
                if (it.w_se) {
                    for (int s = 0; s < width; s++) {
                        alignas(64) float mean[SLAB];
                        store(mean, mul(sum[s], all(1.f / (float)g.out_pixels())));
                        reduce_slab(block.se, mean, first_slab + s, hidden);
                    }
                }
            }
        }
    });
    return bands(g);
}

// ---- squeeze-excite: gates from the sums; they scale the map or, for large maps, the projection's weights ----

// hidden activations of one image, from what each unit brought
const float *phi_engine::hidden(const Work &work, const Block &block, int units, int images, int image) const {
    const SqueezeExcite &se = block.se;
    float *const sums = work.own->hidden + (size_t)image * se.padded;
    memcpy(sums, se.reduce_bias, sizeof(float) * se.padded);
    for (int unit = 0; unit < units; unit++) {
        const float *part = work.shared->hidden + ((size_t)unit * images + image) * se.padded;
        for (int h = 0; h < se.padded; h += SLAB) store(sums + h, add(load(sums + h), load(part + h)));
    }
    activate(sums, se.padded, net.activation);
    return sums;
}

// the map times its gates, where they don't go into the projection's weights
void phi_engine::scale(const Work &work, int index, Map mid, int images, int units) {
    Block &block = *blocks[index];
    const Geometry &g = work.plan->blocks[index];
    const int wanted = std::min(block.slabs_mid, 4 * work.size);
    auto prepare = [&] {
        for (int image = 0; image < images; image++) hidden(work, block, units, images, image);
    };
    work.each(wanted, prepare, [&](int unit) {
        for (int slab = block.slabs_mid * unit / wanted; slab < block.slabs_mid * (unit + 1) / wanted; slab++)
            for (int image = 0; image < images; image++) {
                const V gate = gate_slab(block.se, work.own->hidden + (size_t)image * block.se.padded, slab);
                const size_t at = slab * mid.slab + (size_t)image * g.out_pixels() * SLAB;
                elem *map = mid.data + at;
                if (INT8 && block.projects_bytes)
                    for (int i = 0; i < g.out_pixels(); i++) store(mid.bytes + at + (size_t)i * SLAB, mul(load(map + (size_t)i * SLAB), gate), block.project_in);
                else
                    for (int i = 0; i < g.out_pixels(); i++, map += SLAB) store(map, mul(load(map), gate));
            }
    });
}

// From the map between its halves to the block's end. `weights`: as they are, or as prepare() makes them of squeeze-excite's gates.
template <class Input, class Weights, class Prepare>
void phi_engine::project(const Work &work, int index, const Input *map, Weights packed, Map mid, Map in, Map out, int images, Prepare fold) {
    Block &block = *blocks[index];
    const Geometry &g = work.plan->blocks[index];
    const int pixels = images * g.out_pixels();
    const Groups groups = packed.groups;
    // share out pixels where there are many, or outputs don't share out well; else outputs: each thread reads its part of the weights
    const bool by_pixels = work.size > 1 && (pixels >= 4 * PIECE * work.size || (pixels >= PIECE / 2 * work.size && groups.count() % work.size));
    const int parts = by_pixels ? std::clamp(pixels / (4 * PIECE), work.size, 4 * work.size) : groups.count();
    const ptrdiff_t *offsets = nullptr;
    auto prepare = [&] {
        offsets = work.steps(mid.slab, block.slabs_mid);
        fold(packed);
    };
    const bool elems = !INT8 || block.next.elems, bytes = INT8 && block.next.bytes;
    work.each(parts, prepare, [&](int unit) {
        const int start = by_pixels ? (int)((int64_t)pixels * unit / parts) : 0, end = by_pixels ? (int)((int64_t)pixels * (unit + 1) / parts) : pixels;
        const int size = piece_of(end - start);
        for (int group = by_pixels ? 0 : unit; group < (by_pixels ? groups.count() : unit + 1); group++)
        with_act(block.it.project_acts ? net.activation : PHI_NONE, [&](auto a) __attribute__((always_inline)) {
            auto rows_at = [&](int i) -> Rows {
                const int at = start + i * size;
                return {map + (size_t)at * SLAB, std::min(size, end - at)};
            };
            gemm((end - start + size - 1) / size, rows_at, offsets, SLAB, packed, packed.weights, group, by_pixels ? 1 : work.size,
                 [&](int i, int s, int count, const float *c, int row) __attribute__((always_inline)) {
                     const size_t slab = groups.first(group) + s, at = (size_t)(start + i * size) * SLAB;
                     auto put = [&](auto value) __attribute__((always_inline)) {
                         elem *write = out.data + slab * out.slab + at;
                         if (elems) {
#pragma GCC unroll 4
                             for (int r = 0; r < count; r++) store(write + r * SLAB, value(r));
                         }
                         if (bytes) {
                             Byte *write_bytes = out.bytes + slab * out.slab + at;
#pragma GCC unroll 4
                             for (int r = 0; r < count; r++) store(write_bytes + r * SLAB, value(r), block.next.quantiser);
                         }
                     };
                     if (block.it.skips) {
                         const elem *read = in.data + slab * in.slab + at;
                         put([&](int r) __attribute__((always_inline)) { return add(act<decltype(a)::value>(load(c + r * row)), load(read + r * SLAB)); });
                     } else {
                         put([&](int r) __attribute__((always_inline)) { return act<decltype(a)::value>(load(c + r * row)); });
                     }
                 });
        });
    });
}

void phi_engine::project(const Work &work, int index, Map mid, Map in, Map out, int images, int units) {
    Block &block = *blocks[index];
    Scratch &own = *work.own;
    const bool folds = block.it.w_se && work.plan->blocks[index].folds;
    auto gates = [&] {
        const float *sums = hidden(work, block, units, 1, 0);
        for (int slab = 0; slab < block.slabs_mid; slab++) store(own.gates + slab * SLAB, gate_slab(block.se, sums, slab));
    };
    if (INT8 && block.projects_bytes)
        project(work, index, mid.bytes, block.project_bytes, mid, in, out, images, [&](auto &packed) {
            if (!folds) return;
            gates();
            redirect(packed, own.byte_weights, own.byte_scale, own.byte_bias);
            fold_gates(block.project_floats, block.project_bias, own.gates, block.se_in, block.se_means, packed);
        });
    else
        project(work, index, mid.data, block.project, mid, in, out, images, [&](auto &packed) {
            if (!folds) return;
            gates();
            fold_gates(block.project, own.gates, own.weights);
            packed.weights = own.weights;
        });
}

void phi_engine::run_block(const Work &work, int index, Map in, Map out, int images) {
    Block &block = *blocks[index];
    const Geometry &g = work.plan->blocks[index];
    const Map mid{work.shared->mid, work.shared->mid_bytes, (size_t)images * g.out_pixels() * SLAB};
    int units;
    clear_overflow();
    {
        TIMED(4 + 3 * index);
        if (block.it.kind == PHI_DEPTHWISE) {
            units = block.is_wide ? depthwise_units<Exact>(work, index, in, mid, images) : depthwise_units<Fast>(work, index, in, mid, images);
        } else {
            // half precision only pays where the activation is costly
            const bool half = !block.is_wide && net.activation == PHI_SILU;
            units = half ? full_rows<Fast>(work, index, in, mid, out, images) : full_rows<Exact>(work, index, in, mid, out, images);
        }
    }
    if (overflow() && !block.is_wide) block.overflowed = true;
    if (block.it.kind == PHI_FULL && !block.expands) return;
    if (block.it.w_se && !g.folds) {
        TIMED(5 + 3 * index);
        scale(work, index, mid, images, units);
    }
    TIMED(6 + 3 * index);
    project(work, index, mid, in, out, images, units);
}

// ---- head, mean pooling, classifier ----

template <class P>
void phi_engine::run_head(const Work &work, Map in, int images, int first_in_chunk, float *features) {
    TIMED(2);
    const Plan &p = *work.plan;
    const int pixels = p.feature_pixels, stride = p.features;
    // pixel after pixel of each slab of a group
    struct Place {
        V sum;
        int pixel, image;
    };
    auto put = [&](Place &at, int slab, V v) __attribute__((always_inline)) {
        at.sum = add(at.sum, v);
        if (features) {
            alignas(64) float channel[SLAB];
            store(channel, v);
            for (int c = 0; c < std::min(SLAB, last_width - slab * SLAB); c++)
                features[((size_t)at.image * last_width + slab * SLAB + c) * pixels + at.pixel] = channel[c];
        }
        if (++at.pixel < pixels) return;
        const V mean = mul(at.sum, all(1.f / (float)pixels));
        store(work.shared->embedding + (size_t)(first_in_chunk + at.image) * stride + slab * SLAB, mean);
        store(work.shared->pooled + ((size_t)slab * CHUNK + first_in_chunk + at.image) * SLAB, mean);
        at = {zero(), 0, at.image + 1};
    };
    const Groups groups{p.features / SLAB};
    const ptrdiff_t *offsets = nullptr;
    const int total = images * pixels, size = piece_of(total);
    auto convolve = [&](const auto *map, const auto &packed, int group, Place *places) {
        auto rows_at = [&](int i) -> Rows { return {map + (size_t)i * size * SLAB, std::min(size, total - i * size)}; };
        with_act(net.activation, [&](auto a) __attribute__((always_inline)) {
            gemm((total + size - 1) / size, rows_at, offsets, SLAB, packed, packed.weights, group, work.size,
                 [&](int, int s, int count, const float *c, int row) __attribute__((always_inline)) {
                     Place at = places[s];
                     for (int r = 0; r < count; r++) put(at, groups.first(group) + s, P::widen(act<decltype(a)::value>(P::from(load(c + r * row)))));
                     places[s] = at;
                 });
        });
    };
    work.each(groups.count(), [&] { offsets = work.steps(in.slab, blocks.back()->slabs_out); }, [&](int group) {
        const int slab = groups.first(group);
        Place places[Groups::LARGEST];
        for (Place &at : places) at = {zero(), 0, 0};
        if (!net.head_width) {
            for (int s = 0; s < groups.width(group); s++)
                for (int r = 0; r < total; r++) put(places[s], slab + s, load(in.data + (slab + s) * in.slab + (size_t)r * SLAB));
        } else if (INT8 && heads_bytes) {
            convolve(in.bytes, head_bytes, group, places);
        } else {
            convolve(in.data, head, group, places);
        }
    });
}

// pooled features of `count` images -> logits, embedding
void phi_engine::classify(const Work &work, int count, float *logits, float *embedding) {
    TIMED(3);
    const Plan &p = *work.plan;
    if (embedding)
        work.each(count, [] {}, [&](int i) {
            memcpy(embedding + (size_t)i * last_width, work.shared->embedding + (size_t)i * p.features, sizeof(float) * last_width);
        });
    if (!logits || !net.num_classes) return;
    const ptrdiff_t *offsets = nullptr;
    const int size = piece_of(count);
    auto rows_at = [&](int i) -> Rows { return {work.shared->pooled + (size_t)i * size * SLAB, std::min(size, count - i * size)}; };
    work.each(classifier.groups.count(), [&] { offsets = work.steps((size_t)CHUNK * SLAB, classifier.k_tiles); }, [&](int group) {
        gemm((count + size - 1) / size, rows_at, offsets, SLAB, classifier, classifier.weights, group, work.size,
             [&](int i, int s, int rows, const float *c, int row) {
                 const int from = (classifier.groups.first(group) + s) * SLAB, width = std::min(SLAB, net.num_classes - from);
                 for (int r = 0; r < rows; r++) memcpy(logits + (size_t)(i * size + r) * net.num_classes + from, c + r * row, sizeof(float) * width);
             });
    });
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
        Map in{};
        int side = 0;
        if (!streams) {
            in = {work.shared->map[side], work.shared->map_bytes[side], (size_t)p.stem.out_pixels() * SLAB};
            side ^= 1;
            net.stem_width ? stem_alone(work, in) : image_alone(work, images + image * image_size, in);
        }
        for (int i = 0; i < p.grouped; i++) {
            const size_t pixels = p.blocks[i].out_pixels();
            Map out{work.shared->map[side], work.shared->map_bytes[side], pixels * SLAB};
            const size_t at = (size_t)image * pixels * SLAB;
            if (i == p.grouped - 1) out = {work.shared->group[0] + at, work.shared->group_bytes[0] + at, (size_t)count * pixels * SLAB};
            run_block(work, i, in, out, 1);
            in = out;
            side ^= 1;
        }
    }
    Map in{work.shared->group[0], work.shared->group_bytes[0], (size_t)count * p.blocks[p.grouped - 1].out_pixels() * SLAB};
    int side = 1;
    for (int i = p.grouped; i < total; i++) {
        const Map out{work.shared->group[side], work.shared->group_bytes[side], (size_t)count * p.blocks[i].out_pixels() * SLAB};
        run_block(work, i, in, out, count);
        in = out;
        side ^= 1;
    }
    clear_overflow();
    head_wide ? run_head<Exact>(work, in, count, first_in_chunk, features) : run_head<Fast>(work, in, count, first_in_chunk, features);
    if (overflow() && !head_wide) head_overflowed = true;
}

void phi_engine::pass(const float *images, int batch, float *logits, float *embedding, float *features) {
    TIMED(0);
    Plan &p = *plan;
    const int threads = team->size();
    const size_t image_size = (size_t)net.in_channels * p.height * p.width, feature_size = (size_t)last_width * p.feature_pixels;
    // most images go to one thread each, some at a time; those that are left over when each has had as many, to all together
    const int each = batch / threads, together = batch - each * threads, alone = each * threads;
    const int some = each <= GROUP ? each : std::min(CHUNK, up((each + 3) / 4, GROUP));
    auto stretch = [&](const Work &work, int from, int count) {
        for (int chunk = 0; chunk < count; chunk += CHUNK) {
            const int size = std::min(CHUNK, count - chunk), at = from + chunk;
            for (int i = 0; i < size; i += GROUP)
                images_through(work, images + (at + i) * image_size, std::min(GROUP, size - i), i, features ? features + (at + i) * feature_size : nullptr);
            classify(work, size, logits ? logits + (size_t)at * net.num_classes : nullptr, embedding ? embedding + (size_t)at * last_width : nullptr);
        }
    };
    team->run(
        [&](int id) {
            const unsigned csr = _mm_getcsr();
            _mm_setcsr(MXCSR);
            begin();
            int phase = 0;
            if (alone) {
                const Work own{1, team.get(), &phase, &p.buffers[id], &p.scratch[id], &p};
                team->each(phase++, (alone + some - 1) / some, [] {}, [&](int i) { stretch(own, i * some, std::min(some, alone - i * some)); });
            }
            if (together) stretch(Work{threads, team.get(), &phase, &p.buffers[0], &p.scratch[id], &p}, alone, together);
            end();
            _mm_setcsr(csr);
        },
        phases(together));
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

int phi_permit(char *error, int error_size) { return guarded(error, error_size, [] { permit(); }); }

phi_engine *phi_create(const phi_network *network, char *error, int error_size) {
    phi_engine *engine = nullptr;
    guarded(error, error_size, [&] { engine = new phi_engine(*network); });
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
