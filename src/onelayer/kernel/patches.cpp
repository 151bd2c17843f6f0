// Codes of images by filters: convolution, contrast, both activations, averages over windows, square roots and bytes,
// fused. The response of an image, (filters, rows, columns), is never stored.
//
// The filters of a panel lie along the lanes. A tile is a few positions side by side of a row of the response: its
// products are kept in registers, and the pixels of a position are read where they lie in the image. The edges of all
// windows cut the response into cells. An activation is added to the sum of its cell, once, however many windows it is
// in; windows are sums of cells, first across and then down.
//
// An image's codes are computed in the same order whatever the images beside it, and so do not depend on threads.

#include "kernel.hpp"
#include "memory.hpp"
#include "products.hpp"
#include "vector.hpp"

#include <math.h>

namespace onelayer {
namespace {

// A tile has WIDE * POSITIONS accumulators: of 32 registers 24, of 16 registers 12.
constexpr int WIDE = 2, POSITIONS = CLASSES > 5 ? 12 : 6;
constexpr int64_t FILTERS = WIDE * LANES;  // of a panel
constexpr int64_t SIDES = 2 * FILTERS;     // sums of a cell: of positive responses, then of negative ones

// The pieces into which the edges of ranges cut an axis of the response.
struct Cells {
    Cells(const int64_t *ranges, int64_t count, int64_t length)
        : ranges(ranges), count(count), length(length), of(length), first(count), end(count) {
        Memory<bool> edge(length + 1);
        for (int64_t i = 0; i < 2 * count; ++i) edge[ranges[i]] = true;
        for (int64_t x = 1; x < length; ++x) of[x] = of[x - 1] + edge[x];
        total = of[length - 1] + 1;
        for (int64_t i = 0; i < count; ++i) {
            first[i] = of[ranges[2 * i]];
            end[i] = of[ranges[2 * i + 1] - 1] + 1;
        }
    }
    int64_t span(int64_t range) const { return ranges[2 * range + 1] - ranges[2 * range]; }
    const int64_t *ranges;
    int64_t count, length, total;
    Memory<int64_t> of, first, end;  // the cell of a position; the first cell of a range, and the one after its last
};

// The filters in panels [panel][step][filter][number], padded with filters of zeros. A step is a pixel of the patch, or
// a pair of them side by side; where their number is odd, the last has a zero beside it. Twins have panels of their
// own, so that a filter and its twin are in the same lane.
struct Filters {
    explicit Filters(const Patches &p)
        : steps(p.c * p.k * ((p.k + TOGETHER - 1) / TOGETHER)), groups(p.mirrored ? 2 : 1),
          of_group(p.filters / groups), padded(round_up(of_group, FILTERS)), panels(groups * padded / FILTERS),
          weights(groups * padded * steps * TOGETHER), bias(groups * padded), excess(groups * padded), offset(steps) {
        const int64_t of_row = steps / (p.c * p.k);
        for (int64_t j = 0; j < steps; ++j) {
            const int64_t ch = j / of_row / p.k, row = j / of_row % p.k;
            offset[j] = (ch * p.h + row) * p.w + j % of_row * TOGETHER;
        }
        for (int64_t i = 0; i < p.filters; ++i) {
            const int64_t at = i / of_group * padded + i % of_group;
            bias[at] = p.bias[i];
            Number *to = panel(at / FILTERS) + at % FILTERS * TOGETHER;
            const float *from = p.weights + i * p.c * p.k * p.k;
            double sum = 0;
            for (int64_t line = 0; line < p.c * p.k; ++line)
                for (int64_t x = 0; x < p.k; ++x) {
                    const float weight = *from++;
                    Number &own = to[(line * of_row + x / TOGETHER) * FILTERS * TOGETHER + x % TOGETHER];
                    own = rounded(weight);
                    sum += double(widened(own)) - weight;
                }
            excess[at] = float(sum);
        }
    }
    Number *panel(int64_t i) const { return weights + i * steps * FILTERS * TOGETHER; }
    int64_t steps, groups, of_group, padded, panels;
    Memory<Number> weights;
    Memory<float> bias, excess;  // excess: of the sum of the weights, by rounding
    Memory<int64_t> offset;      // of the pixels of a step, from the first of the patch
};

// An image in numbers to multiply, and for each position the factor on the response, 1 / sqrt(variance of the patch +
// epsilon), and the mean of the patch times this. Sums of pixels and of their squares are whole numbers and exact.
struct Image {
    explicit Image(const Patches &p)
        : p(p), down(p.h - p.k + 1), across(p.w - p.k + 1), pixels(p.c * p.h * p.w + TOGETHER - 1),
          contrast(down * across), brightness(down * across), sums(p.w), squares(p.w),
          mean(across), variance(across) {}
    void read(const uint8_t *from) {
        for (int64_t j = 0; j < p.c * p.h * p.w; ++j) pixels[j] = rounded(from[j]);  // bfloat16 has these exactly
        const int64_t dim = p.c * p.k * p.k;
        for (int64_t x = 0; x < p.w; ++x) sums[x] = squares[x] = 0;
        for (int64_t y = 0; y < p.k - 1; ++y) add_line(from, y, 1);
        for (int64_t y = 0; y < down; ++y) {
            add_line(from, y + p.k - 1, 1);
            int64_t sum = 0, square = 0;
            for (int64_t x = 0; x < p.k - 1; ++x) sum += sums[x], square += squares[x];
            for (int64_t x = 0; x < across; ++x) {
                sum += sums[x + p.k - 1], square += squares[x + p.k - 1];
                if constexpr (TOGETHER > 1) mean[x] = double(sum) / double(dim);
                variance[x] = double(dim * square - sum * sum);
                sum -= sums[x], square -= squares[x];
            }
            float *line = contrast + y * across;
            for (int64_t x = 0; x < across; ++x) {
                line[x] = float(1 / sqrt(variance[x] / double(dim * dim) + p.epsilon));
                if constexpr (TOGETHER > 1) brightness[y * across + x] = float(mean[x]) * line[x];
            }
            add_line(from, y, -1);
        }
    }
    // Adds a line of the image to the sums of columns, or takes it away.
    void add_line(const uint8_t *from, int64_t y, int64_t sign) {
        for (int64_t ch = 0; ch < p.c; ++ch) {
            const uint8_t *line = from + (ch * p.h + y) * p.w;
            for (int64_t x = 0; x < p.w; ++x) {
                const int32_t v = line[x];
                sums[x] += sign * v;
                squares[x] += sign * (v * v);
            }
        }
    }
    const Patches &p;
    int64_t down, across;
    Memory<Number> pixels;
    Memory<float> contrast, brightness;
    Memory<int64_t> sums, squares;
    Memory<double> mean, variance;  // of a line of positions
};

// The products of a panel with the patches at P positions, from `top` on. A function of its own, because around it the
// compiler would keep other things in registers, and accumulators in memory.
template <int P>
__attribute__((noinline)) void multiply(const Filters &filters, const Number *top, const Number *panel,
                                        Vector (*products)[WIDE]) {
    Vector acc[P][WIDE] = {};
    const int64_t *offset = filters.offset;
    for (int64_t j = 0, steps = filters.steps; j < steps; ++j, panel += FILTERS * TOGETHER) {
        const Number *x = top + offset[j];
        Vector f[WIDE];
#pragma GCC unroll 2
        for (int v = 0; v < WIDE; ++v) f[v] = load_once(panel + v * LANES * TOGETHER);
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i)
#pragma GCC unroll 2
            for (int v = 0; v < WIDE; ++v) acc[i][v] = plus_product(acc[i][v], splat(x + i), f[v]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < WIDE; ++v) products[i][v] = acc[i][v];
}

// Adds the activations at P positions, from x on, of a line of the response to the sums of their cells. The sums are of
// max(z, t) and of max(-z, t): the activations of n positions are these less n t. Rounding changes the sum of the weights
// of a filter; its product with the mean of the patch is taken away, and only the error of the differences stays.
template <int P>
inline void tile(const Filters &filters, float threshold, const Image &image, int64_t y, const Number *panel,
                 const Vector *bias, const Vector *excess, const int64_t *cell, float *sums, int64_t x) {
    Vector products[P][WIDE];
    multiply<P>(filters, image.pixels + y * image.p.w + x, panel, products);
    const float *contrast = image.contrast + y * image.across, *brightness = image.brightness + y * image.across;
    const Vector t = splat(threshold);
    Vector sum[2 * WIDE] = {};
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
        const Vector factor = splat(contrast[x + i]);
#pragma GCC unroll 2
        for (int v = 0; v < WIDE; ++v) {
            Vector rest = bias[v];
            if constexpr (TOGETHER > 1) rest -= brightness[x + i] * excess[v];
            const Vector z = products[i][v] * factor + rest;
            sum[v] += larger(z, t);
            sum[WIDE + v] += larger(-z, t);
        }
        if (i + 1 < P && cell[x + i + 1] == cell[x + i]) continue;
        float *to = sums + cell[x + i] * SIDES;
#pragma GCC unroll 4
        for (int v = 0; v < 2 * WIDE; ++v) {
            store(to + v * LANES, load(to + v * LANES) + sum[v]);
            sum[v] = Vector{};
        }
    }
}

// Calls f<P>() for the P that equals n.
template <int P = POSITIONS, class F>
inline void with_position_count(int64_t n, F &&f) {
    if constexpr (P > 0) {
        if (n == P)
            f.template operator()<P>();
        else
            with_position_count<P - 1>(n, f);
    }
}

// Calls f<P>(x) for tiles of P positions from x on, as equal as can be: 13 are 4, 4 and 5, not 6, 6 and 1.
template <class F>
inline void for_tiles(int64_t length, F &&f) {
    const int64_t tiles = (length + POSITIONS - 1) / POSITIONS;
    for (int64_t t = 0; t < tiles; ++t) {
        const int64_t x = length * t / tiles;
        with_position_count(length * (t + 1) / tiles - x, [&]<int P>() { f.template operator()<P>(x); });
    }
}

// The sums of `count` cells of a panel, one after the other, which lie in one piece.
inline void add_up(const float *cells, int64_t count, Vector (&sum)[2 * WIDE]) {
#pragma GCC unroll 4
    for (int v = 0; v < 2 * WIDE; ++v) sum[v] = Vector{};
    for (; count > 0; --count, cells += SIDES)
#pragma GCC unroll 4
        for (int v = 0; v < 2 * WIDE; ++v) sum[v] += load(cells + v * LANES);
}

// Bytes of the square roots of n averages, which are sums times `inverse`. The sums are overwritten, up to the end of a
// vector. The compiler takes many roots at a time only in a loop that has no choice in it.
inline void write_roots(float *__restrict sums, int64_t n, float inverse, float scale, uint8_t *__restrict to) {
    const Vector most = splat(255.0f);
    for (int64_t i = 0; i < n; i += LANES) store(sums + i, larger(load(sums + i) * inverse, Vector{}));
    for (int64_t i = 0; i < n; ++i) sums[i] = sqrtf(sums[i]);
    for (int64_t i = 0; i < n; i += LANES) {
        const Vector level = load(sums + i) * scale;
        store(sums + i, (level < most ? level : most) + 0.5f);
    }
    for (int64_t i = 0; i < n; ++i) to[i] = uint8_t(int32_t(sums[i]));
}

// The sums of activations over the windows, of one image at a time.
struct Pool {
    Pool(const Patches &p, const Filters &filters)
        : p(p), filters(filters), down(p.down, p.downs, p.h - p.k + 1), across(p.across, p.acrosses, p.w - p.k + 1),
          cells(down.total * across.total * SIDES), strips(across.count * down.total * SIDES),
          pooled(p.windows * 2 * filters.padded) {}
    void add(const Image &image, int64_t panel) {
        fill_cells(image, panel);
        Vector sum[2 * WIDE];
        for (int64_t r = 0; r < across.count; ++r)  // over the cells of a row, for each range across
            for (int64_t y = 0; y < down.total; ++y) {
                add_up(cells + (y * across.total + across.first[r]) * SIDES, across.end[r] - across.first[r], sum);
                float *to = strips + (r * down.total + y) * SIDES;
                for (int v = 0; v < 2 * WIDE; ++v) store(to + v * LANES, sum[v]);
            }
        const int64_t first = panel * FILTERS % filters.padded, twins = panel * FILTERS >= filters.padded;
        for (int64_t q = 0; q < p.windows; ++q) {
            const Window &window = p.window[q];
            const int64_t r = twins ? window.across_of_twins : window.across;
            const float rest = p.threshold * float(down.span(window.down) * across.span(r));
            const int64_t y = down.first[window.down];
            add_up(strips + (r * down.total + y) * SIDES, down.end[window.down] - y, sum);
            for (int v = 0; v < 2 * WIDE; ++v) {
                float *to = pooled + (q * 2 + v / WIDE) * filters.padded + first + v % WIDE * LANES;
                store(to, sum[v] - rest + (twins ? load(to) : Vector{}));
            }
        }
    }
    void fill_cells(const Image &image, int64_t panel) {
        memset(cells.p, 0, size_t(down.total * across.total * SIDES) * sizeof(float));
        Vector bias[WIDE], excess[WIDE];
        for (int v = 0; v < WIDE; ++v) {
            bias[v] = load(filters.bias + panel * FILTERS + v * LANES);
            excess[v] = load(filters.excess + panel * FILTERS + v * LANES);
        }
        for (int64_t y = 0; y < image.down; ++y)
            for_tiles(image.across, [&]<int P>(int64_t x) {
                tile<P>(filters, p.threshold, image, y, filters.panel(panel), bias, excess, across.of,
                        cells + down.of[y] * across.total * SIDES, x);
            });
    }
    // Codes: square roots of the averages, in bytes.
    void write(uint8_t *codes) {
        for (int64_t q = 0; q < p.windows; ++q) {
            const Window &window = p.window[q];
            const float inverse =
                1 / float(down.span(window.down) * across.span(window.across) * filters.groups);
            for (int64_t side = 0; side < 2; ++side)
                write_roots(pooled + (q * 2 + side) * filters.padded, filters.of_group, inverse, p.scale,
                            codes + window.place + side * filters.of_group);
        }
    }
    const Patches &p;
    const Filters &filters;
    Cells down, across;
    Memory<float> cells, strips, pooled;  // (down, across, SIDES), (ranges across, down, SIDES), (windows, 2, padded)
};

}  // namespace

bool PATCHES(const Patches &p) {
    const Filters filters(p);
    Image image(p);
    Pool pool(p, filters);
    Patience patience{p.interrupted};
    for (int64_t i = 0; i < p.n; ++i) {
        image.read(p.images + i * p.c * p.h * p.w);
        for (int64_t panel = 0; panel < filters.panels; ++panel) {
            pool.add(image, panel);
            if (patience.ends(image.down * image.across * filters.steps * FILTERS)) return false;
        }
        pool.write(p.codes + i * p.stride);
    }
    return true;
}

}  // namespace onelayer
