// Mini-batch gradient descent, evaluation, loss with gradient, and the products of both with the rows, of a one-layer
// classifier, for the instruction set this is compiled for.
//
// The arithmetic is two products a batch, S = R V^T (n, K) and D = G^T R (K, d), that have a short side of K: a general
// matrix product spends its time packing them. Here a tile of the result is kept in registers, and pixels are widened
// to floats there too, so that a batch of 100 CIFAR-10 rows is 307 kB and stays in the L2 cache for its second use.
//
// Rows and templates lie in panels of PANEL features, padded with zeros to whole vectors: [panel][row or class][feature].
// Forward, the templates of a panel stay in the L1 cache while all rows pass. Backward, a column of a hundred rows lies
// in few memory pages, and in different sets of the cache, which rows of 3,072 bytes side by side do not. While the
// gradient of a tile is in registers, its weights are updated, folded with the standardisation and added to the next
// step's folded bias.
//
// Every number is computed in the same order whatever the tile it falls in, so that a row's logits do not depend on
// the rows beside it.

#include "kernel.hpp"
#include "memory.hpp"
#include "vector.hpp"

#include <math.h>
#include <string.h>

#include <type_traits>  // types only, for the same reason as in vector.hpp

namespace onelayer {
namespace {

// Sizes of a chunk of rows: half of an L2 cache, or more if many classes use a panel of it again and again.
constexpr int64_t CHUNK_ROWS = 256, CHUNK_BYTES = 512 << 10, WIDENED_CHUNK_BYTES = 16 << 20;

// Calls f<C>() for the C that equals c.
template <int C = CLASSES, class F>
inline void with_class_count(int64_t c, F &&f) {
    if constexpr (C > 0) {
        if (c == C)
            f.template operator()<C>();
        else
            with_class_count<C - 1>(c, f);
    }
}

// Calls f<C>(k) for tiles of C classes from k on, as equal as can be: 17 are 9 and 8, not 10 and 7.
template <class F>
inline void for_class_tiles(int64_t K, F &&f) {
    const int64_t tiles = (K + CLASSES - 1) / CLASSES;
    for (int64_t t = 0; t < tiles; ++t) {
        const int64_t k = K * t / tiles;
        with_class_count(K * (t + 1) / tiles - k, [&]<int C>() { f.template operator()<C>(k); });
    }
}

// The layout of rows or templates of d features: a panel's features side by side, then those of the next row or class.
template <class T>
struct Panels {
    Panels(int64_t count, int64_t d)
        : d(d), count(count), panels((d + PANEL - 1) / PANEL),
          // An odd number of cache lines, so that a column falls into different sets of the cache.
          stride(round_up(smaller(d, PANEL), int64_t(STEP)) + 64 / int64_t(sizeof(T))),
          memory(panels * count * stride) {}
    T *at(int64_t panel, int64_t i) const { return memory + (panel * count + i) * stride; }
    int64_t width(int64_t panel) const { return smaller(PANEL, d - panel * PANEL); }
    int64_t padded(int64_t panel) const { return round_up(width(panel), int64_t(STEP)); }
    void set(int64_t i, const T *row) const {
        for (int64_t p = 0; p < panels; ++p) memcpy(at(p, i), row + p * PANEL, size_t(width(p)) * sizeof(T));
    }
    void get(int64_t i, T *row) const {
        for (int64_t p = 0; p < panels; ++p) memcpy(row + p * PANEL, at(p, i), size_t(width(p)) * sizeof(T));
    }
    int64_t d, count, panels, stride;
    Memory<T> memory;
};

// The standardisation: of pixels it is folded into the layer, of features it is done to the rows, and the layer is
// "folded" with mean 0 and scale 1, which leaves it as it is.
struct Standardization {
    explicit Standardization(const Rows &rows) : Standardization(rows, rows.type == Type::uint8) {}
    Standardization(const Rows &rows, bool folds)
        : folds(folds), mean(1, rows.d), inverse(1, rows.d), source(1, rows.d), rest(1, rows.d),
          source_inverse(1, rows.d) {
        for (int64_t j = 0; j < rows.d; ++j) {
            const int64_t p = j / PANEL, at = j % PANEL;
            const float high = float(rows.mean[j]);
            if (folds) {
                mean.at(p, 0)[at] = high;
                inverse.at(p, 0)[at] = float(1 / rows.scale[j]);
            } else {
                inverse.at(p, 0)[at] = 1;
                source.at(p, 0)[at] = high;  // the mean in two parts: features may lie far from zero
                rest.at(p, 0)[at] = float(rows.mean[j] - double(high));
                source_inverse.at(p, 0)[at] = float(1 / rows.scale[j]);
            }
        }
    }
    const bool folds;
    Panels<float> mean, inverse;                 // of the layer
    Panels<float> source, rest, source_inverse;  // of the rows
};

// The folded layer: V = T / s (K, d) and c = b - V m (K,).
struct Folded {
    Folded(int64_t K, int64_t d) : K(K), V(K, d), c(K) {}
    // That of templates (K, d) without a bias; V m is that of V in float32.
    Folded(const double *templates, int64_t K, const Rows &rows) : Folded(K, rows.d) {
        const bool pixels = rows.type == Type::uint8;
        Memory<double> inverse(rows.d);
        for (int64_t j = 0; j < rows.d; ++j) inverse[j] = pixels ? 1 / rows.scale[j] : 1;
        for (int64_t k = 0; k < K; ++k) {
            const double *of_class = templates + k * rows.d;
            double shift = 0;
            for (int64_t j = 0; j < rows.d; ++j) {
                const float v = float(of_class[j] * inverse[j]);
                V.at(j / PANEL, k)[j % PANEL] = v;
                if (pixels) shift += double(v) * rows.mean[j];
            }
            c[k] = float(-shift);
        }
    }
    int64_t K;
    Panels<float> V;
    Memory<float> c;
};

struct Layer : Folded {
    Layer(const float *templates, const float *bias, int64_t K, const Standardization &standardization, int64_t d)
        : Folded(K, d), T(K, d), b(K), shift(K * LANES) {
        for (int64_t k = 0; k < K; ++k) {
            T.set(k, templates + k * d);
            b[k] = bias[k];
            Vector total = {};
            for (int64_t p = 0; p < T.panels; ++p)
                for (int64_t j = 0; j < T.padded(p); j += LANES) {
                    const Vector v = load(T.at(p, k) + j) * load(standardization.inverse.at(p, 0) + j);
                    store(V.at(p, k) + j, v);
                    total += v * load(standardization.mean.at(p, 0) + j);
                }
            store(shift + k * LANES, total);
        }
        fold_bias();
    }
    void fold_bias() {
        for (int64_t k = 0; k < K; ++k) c[k] = b[k] - sum(load(shift + k * LANES));
    }
    Panels<float> T;
    Memory<float> b, shift;  // the last (K, LANES): partial sums of V m
};

// Calls f<Source>() for the type in which rows are stored.
template <class F>
inline auto with_source(Type type, F &&f) {
    switch (type) {
        case Type::uint8: return f.template operator()<uint8_t>();
        case Type::float16:
            if constexpr (!SMALL) return f.template operator()<Half>();
        default: return f.template operator()<float>();
    }
}

// Adds the mirrored right halves of a row of images to the left ones; a middle column stays as it is.
template <class Source>
void add_halves(const Rows &rows, const Source *from, float *to) {
    const int64_t width = rows.width, half = width / 2;
    for (const Source *end = from + rows.stored; from < end; from += width, to += width - half) {
        int64_t x = 0;
        for (; x + LANES <= half; x += LANES)
            store(to + x, load(from + x) + reversed(load(from + width - LANES - x), Lanes()));
        for (; x < half; ++x) to[x] = widened(from[x]) + widened(from[width - 1 - x]);
        if (width % 2) to[half] = widened(from[half]);
    }
}

// Some rows, copied into panels: mirrored where they are to be, standardised where they are features, and widened once
// if many classes would each widen them again. Pixels may also stay where they are.
template <class Held>
struct Chunk {
    Chunk(const Rows &source, const Standardization &standardization, int64_t most, int64_t K)
        : source(source), standardization(standardization),
          item(with_source(source.type, []<class Source>() { return int64_t(sizeof(Source)); })),
          ahead(item * source.stored / source.d), panels(smaller(most, rows_for(source.d, K)), source.d),
          labels(panels.count), weights(panels.count), line(source.stored), here(panels.count), next(panels.count) {}
    static int64_t rows_for(int64_t d, int64_t K) {
        const int64_t bytes = K > 2 * CLASSES ? WIDENED_CHUNK_BYTES : CHUNK_BYTES;
        const int64_t fit = bytes / (d * int64_t(sizeof(Held)) + 1) / 2 * 2;  // even, as rows are treated in pairs
        return fit < 16 ? 16 : smaller(fit, CHUNK_ROWS);
    }
    const char *row(int64_t place) const {
        return static_cast<const char *>(source.data) + place * source.stored * item;
    }
    // The rows at the first n of `left` places; the next n will be wanted soon.
    void take(const int64_t *places, int64_t n, int64_t left) {
        for (int64_t i = 0; i < n; ++i) {
            labels[i] = source.labels ? source.labels[places[i]] : 0;
            weights[i] = source.weights ? source.weights[places[i]] : 1;
            next[i] = row(places[i + n < left ? i + n : i]);
        }
    }
    void copy(const int64_t *places, int64_t n, const uint8_t *flipped = nullptr, int64_t width = 0) {
        if constexpr (std::is_same_v<Held, uint8_t>)
            copy_from<uint8_t>(places, n, flipped, width);
        else
            with_source(source.type, [&]<class Source>() { copy_from<Source>(places, n, flipped, width); });
        step = panels.count * panels.stride;
    }
    template <class Source>
    void copy_from(const int64_t *places, int64_t n, const uint8_t *flipped, int64_t width) {
        Source *mirrored = reinterpret_cast<Source *>(line.p);
        for (int64_t i = 0; i < n; ++i) {
            const Source *from = reinterpret_cast<const Source *>(row(places[i]));
            if (flipped && flipped[i]) {
                for (int64_t start = 0; start < source.d; start += width)
                    for (int64_t x = 0; x < width; ++x) mirrored[start + x] = from[start + width - 1 - x];
                from = mirrored;
            }
            if constexpr (std::is_same_v<Held, float>) {
                if (source.width) add_halves(source, from, line);
            }
            for (int64_t p = 0; p < panels.panels; ++p) {
                if constexpr (std::is_same_v<Held, float>) {
                    if (source.width) {
                        set<float>(panels.at(p, i), line + p * PANEL, p);
                        continue;
                    }
                }
                set(panels.at(p, i), from + p * PANEL, p);
            }
            here[i] = panels.at(0, i);
        }
    }
    // True if rows can be multiplied where they are, because nothing is read beyond their end.
    bool may_stay() const { return std::is_same_v<Held, uint8_t> && source.d % LANES == 0; }
    void stay(const int64_t *places, int64_t n) {
        for (int64_t i = 0; i < n; ++i) here[i] = reinterpret_cast<const Held *>(row(places[i]));
        step = PANEL;
    }
    // For products with templates alone, which read a row once.
    void stay_or_copy(const int64_t *places, int64_t n) {
        if (may_stay())
            stay(places, n);
        else
            copy(places, n);
    }
    template <class Source>
    void set(Held *to, const Source *from, int64_t p) const;
    const Rows &source;
    const Standardization &standardization;
    int64_t item;   // bytes of a stored number
    int64_t ahead;  // bytes to prefetch for each number of the rows at hand
    Panels<Held> panels;
    Memory<int64_t> labels;
    Memory<double> weights;
    Memory<float> line;         // room for a row in any type
    Memory<const Held *> here;  // the rows' first panels
    int64_t step;               // from a panel to the next
    Memory<const char *> next;  // rows to prefetch
};

// A panel of a row. What would be read past the row's end stays 0 (of features, as their `inverse` is 0 there).
template <class Held>
template <class Source>
void Chunk<Held>::set(Held *to, const Source *from, int64_t p) const {
    const int64_t width = panels.width(p);
    if constexpr (std::is_same_v<Held, uint8_t>) {
        memcpy(to, from, size_t(width));
    } else {
        auto each = [=](auto put) {  // copies, which no store can change
            int64_t j = 0;
            for (; j + LANES <= width; j += LANES) put(from + j, j);
            if (j < width) {
                Source last[LANES] = {};
                memcpy(last, from + j, size_t(width - j) * sizeof(Source));
                put(last, j);
            }
        };
        const Standardization &s = standardization;
        const float *mean = s.source.at(p, 0), *rest = s.rest.at(p, 0), *inverse = s.source_inverse.at(p, 0);
        if (s.folds)
            each([=](const Source *x, int64_t j) { store(to + j, load(x)); });
        else
            each([=](const Source *x, int64_t j) {
                store(to + j, ((load(x) - load(mean + j)) - load(rest + j)) * load(inverse + j));
            });
    }
}

// Logits S (R, C) of R rows x against C templates, over the features of a panel, added to what is there. On the way the
// rows `next` are prefetched, a little at a time, as memory answers no faster.
template <int R, int C, bool PREFETCH, class Held>
inline void tile_forward(const Held *const *x, const char *const *next, int64_t ahead, const float *V, int64_t V_stride,
                         int64_t width, float *S, int64_t S_stride) {
    Vector acc[R][C] = {};
    for (int64_t j = 0; j < width; j += LANES) {
        Vector row[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            row[r] = load(x[r] + j);
            if (PREFETCH) __builtin_prefetch(next[r] + j * ahead, 0, 2);
        }
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) {
            const Vector v = load_once(V + c * V_stride + j);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) acc[r][c] += row[r] * v;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) add_sums<C>(acc[r], S + r * S_stride);
}

// Logits S (n, K) of the first n rows of a chunk, padded to S_stride with minus infinity.
template <class Held>
void forward(const Chunk<Held> &X, int64_t n, const Folded &layer, float *S, int64_t S_stride) {
    const int64_t K = layer.K;
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t k = 0; k < K; ++k) S[i * S_stride + k] = layer.c[k];
        for (int64_t k = K; k < S_stride; ++k) S[i * S_stride + k] = -INFINITY;
    }
    for (int64_t p = 0; p < X.panels.panels; ++p) {
        const int64_t width = round_up(X.panels.width(p), int64_t(LANES));
        for_class_tiles(K, [&]<int C>(int64_t k) {
            constexpr int R = SMALL || C == CLASSES ? 2 : ACCUMULATORS / C < 6 ? ACCUMULATORS / C : 6;
            const float *V = layer.V.at(p, k);
            auto tile = [&]<int rows, bool PREFETCH>(int64_t i) {
                const Held *x[rows];
                const char *next[rows];
                for (int r = 0; r < rows; ++r) {
                    x[r] = X.here[i + r] + p * X.step;
                    next[r] = X.next[i + r] + p * PANEL * X.ahead;
                }
                float *to = S + i * S_stride + k;
                tile_forward<rows, C, PREFETCH>(x, next, X.ahead, V, layer.V.stride, width, to, S_stride);
            };
            int64_t i = 0;
            if (!SMALL && k == 0)
                for (; i + R <= n; i += R) tile.template operator()<R, !SMALL>(i);
            else
                for (; i + R <= n; i += R) tile.template operator()<R, false>(i);
            for (; i < n; ++i) tile.template operator()<1, false>(i);
        });
    }
}

// The exponentials of a row's logits less the largest, in place; returns their sum, and the largest.
inline float exponentials(float *s, int64_t stride, float *largest) {
    Vector top = load(s), total = {};
    for (int64_t k = LANES; k < stride; k += LANES) top = larger(load(s + k), top);
    *largest = across(top, larger);
    for (int64_t k = 0; k < stride; k += LANES) {
        const Vector e = exponential(load(s + k) - *largest);
        total += e;
        store(s + k, e);
    }
    return sum(total);
}

// Finishes a row from its logits s, padded to `stride`. If RESIDUAL, its probabilities minus its one-hot label, times
// `share`, take their place, 0 in the padding; else they are overwritten. Returns its loss in nats if LOSS, else 0.
template <bool RESIDUAL, bool LOSS>
inline double finish(float *s, int64_t K, int64_t stride, int64_t label, Loss loss, float share) {
    double nats = 0;
    if (loss == Loss::softmax) {
        const double own = s[label];
        float top;
        const float total = exponentials(s, stride, &top);
        if (LOSS) nats = log(double(total)) - (own - double(top));
        if (RESIDUAL) {
            const float factor = share / total;
            for (int64_t k = 0; k < stride; k += LANES) store(s + k, load(s + k) * factor);
        }
    } else {
        // Sum of max(z, 0) + log(1 + exp(-|z|)), z = -s for the true class and s for others. The logarithms are taken
        // of products of factors between 1 and 2, as many as a double has room for.
        double total = 0, product = 1;
        for (int64_t k = 0; k < stride; k += LANES) {
            const Vector x = load(s + k), e = exponential(x > 0 ? -x : x);
            if (RESIDUAL) store(s + k, (x >= 0 ? splat(1) : e) / (1 + e) * share);
            if (LOSS) {
                for (int lane = 0; lane < LANES && k + lane < K; ++lane) {
                    const float z = k + lane == label ? -x[lane] : x[lane];
                    total += z > 0 ? double(z) : 0;
                    product *= 1 + double(e[lane]);
                }
                if (product > 0x1p900) total += log(product), product = 1;
            }
        }
        if (LOSS) nats = (total + log(product)) / double(K);
    }
    if (RESIDUAL) s[label] -= share;
    return nats;
}

// The residuals of a chunk's rows.
struct Residuals {
    const float *G;  // (n, stride)
    int64_t n, stride;
};

// The products, with the residuals, of B vectors of features from j of panel p on, for C classes from k on: these terms
// of G^T R go to `sink`.
template <int B, int C, class T, class Sink>
inline void tile_backward(const Panels<T> &X, const Residuals &r, int64_t p, int64_t k, int64_t j, const Sink &sink) {
    Vector total[B][C];
    {
        Vector acc[B][C] = {};
        const float *g = r.G + k;
        const T *x = X.at(p, 0) + j;
        for (int64_t i = 0; i < r.n; ++i, g += r.stride, x += X.stride) {
            Vector column[B];
#pragma GCC unroll 16
            for (int b = 0; b < B; ++b) column[b] = load(x + b * LANES);
#pragma GCC unroll 16
            for (int c = 0; c < C; ++c) {
                const Vector w = splat(g[c]);
#pragma GCC unroll 16
                for (int b = 0; b < B; ++b) acc[b][c] += column[b] * w;
            }
        }
        // Copied, all at once, so that what follows cannot make the compiler keep `acc` itself in memory.
#pragma GCC unroll 16
        for (int b = 0; b < B; ++b)
#pragma GCC unroll 16
            for (int c = 0; c < C; ++c) total[b][c] = acc[b][c];
    }
    sink(total, p, k, j);
}

template <class T, class Sink>
void backward(const Panels<T> &X, const Residuals &r, int64_t K, const Sink &sink) {
    for (int64_t p = 0; p < X.panels; ++p)
        for_class_tiles(K, [&]<int C>(int64_t k) {
            constexpr int B = 4 * C <= ACCUMULATORS ? 4 : 2;
            for (int64_t j = 0; j < X.padded(p); j += B * LANES) tile_backward<B, C>(X, r, p, k, j, sink);
        });
}

// Adds the chunks of a batch up and, at the last of them, steps down the gradient.
struct Update {
    const float *sums;  // (K,), column sums of the residuals over the batch
    const Standardization &standardization;
    Layer &layer;
    Panels<float> *gradient;  // of the chunks of the batch so far; null where one chunk is all
    Panels<float> *velocity;  // null without momentum
    bool first, last;         // of the batch's chunks
    float learning_rate, l2, momentum;

    template <int B, int C>
    void operator()(Vector (&total)[B][C], int64_t p, int64_t k, int64_t j) const {
        if (gradient) {
            for (int c = 0; c < C; ++c)
                for (int b = 0; b < B; ++b) {
                    float *so_far = gradient->at(p, k + c) + j + b * LANES;
                    if (!first) total[b][c] += load(so_far);
                    if (!last) store(so_far, total[b][c]);
                }
            if (!last) return;
        }
        for (int c = 0; c < C; ++c) {
            float *weights = layer.T.at(p, k + c) + j, *folded = layer.V.at(p, k + c) + j;
            Vector shift = load(layer.shift + (k + c) * LANES);
            for (int b = 0; b < B; ++b) {
                const Vector mean = load(standardization.mean.at(p, 0) + j + b * LANES);
                const Vector inverse = load(standardization.inverse.at(p, 0) + j + b * LANES);
                const Vector old = load(weights + b * LANES);
                const Vector of_loss = (total[b][c] - mean * sums[k + c]) * inverse;
                Vector step = of_loss + 2 * l2 * old;
                if (velocity) {
                    float *moving = velocity->at(p, k + c) + j + b * LANES;
                    step += momentum * load(moving);
                    store(moving, step);
                }
                const Vector fresh = old - learning_rate * step;
                const Vector v = fresh * inverse;
                store(weights + b * LANES, fresh);
                store(folded + b * LANES, v);
                shift += v * mean;
            }
            store(layer.shift + (k + c) * LANES, shift);
        }
    }
};

// Adds chunks up in float64.
struct Sums {
    const Panels<double> &gradient;

    template <int B, int C>
    void operator()(Vector (&total)[B][C], int64_t p, int64_t k, int64_t j) const {
        for (int c = 0; c < C; ++c)
            for (int b = 0; b < B; ++b) add(total[b][c], gradient.at(p, k + c) + j + b * LANES);
    }
};

// Writes gradients (K, d) from their sums over rows; pixels were multiplied as they are. The residuals of class k add
// up to of_residuals[k].
void write_gradient(const Panels<double> &sums, const double *of_residuals, const Rows &rows, double *gradient) {
    for (int64_t k = 0; k < sums.count; ++k) {
        double *of_class = gradient + k * rows.d;
        sums.get(k, of_class);
        if (rows.type == Type::uint8)
            for (int64_t j = 0; j < rows.d; ++j)
                of_class[j] = (of_class[j] - rows.mean[j] * of_residuals[k]) / rows.scale[j];
    }
}

template <class Held>
bool epoch(const Epoch &e) {
    const int64_t d = e.rows.d, K = e.K, stride = round_up(K, LANES);
    const Standardization standardization(e.rows);
    Layer layer(e.templates, e.bias, K, standardization, d);
    const int64_t most = smaller(e.batch_size, e.count);
    Chunk<Held> chunk(e.rows, standardization, most, K);
    const bool chunks = most > chunk.panels.count;
    Panels<float> gradient(chunks ? K : 0, d), velocity(e.velocity ? K : 0, d);
    for (int64_t k = 0; k < velocity.count; ++k) velocity.set(k, e.velocity + k * d);
    Memory<float> S(chunk.panels.count * stride), sums(stride);
    Patience patience{e.interrupted};
    bool ended = false;
    for (int64_t start = 0; start < e.count && !ended; start += e.batch_size) {
        const int64_t batch = smaller(e.batch_size, e.count - start);
        const float share = 1.0f / float(e.loss == Loss::softmax ? batch : batch * K);
        memset(sums.p, 0, size_t(stride) * sizeof(float));
        for (int64_t done = 0; done < batch && !ended;) {
            const int64_t n = smaller(chunk.panels.count, batch - done), at = start + done;
            chunk.take(e.places + at, n, e.count - at);
            chunk.copy(e.places + at, n, e.flipped ? e.flipped + at : nullptr, e.width);
            forward(chunk, n, layer, S, stride);
            for (int64_t i = 0; i < n; ++i)
                finish<true, false>(S + i * stride, K, stride, chunk.labels[i], e.loss, share * float(chunk.weights[i]));
            for (int64_t i = 0; i < n; ++i)
                for (int64_t k = 0; k < stride; k += LANES) store(sums + k, load(sums + k) + load(S + i * stride + k));
            const bool last = done + n == batch;
            if (last) memset(layer.shift.p, 0, size_t(K) * LANES * sizeof(float));
            backward(chunk.panels, Residuals{S, n, stride}, K,
                     Update{sums, standardization, layer, chunks ? &gradient : nullptr,
                            e.velocity ? &velocity : nullptr, done == 0, last, e.learning_rate, e.l2, e.momentum});
            done += n;
            ended = patience.ends(n * d * K);
        }
        for (int64_t k = 0; k < K; ++k) {
            float step = sums[k];
            if (e.velocity) e.bias_velocity[k] = step += e.momentum * e.bias_velocity[k];
            layer.b[k] -= e.learning_rate * step;
        }
        layer.fold_bias();
    }
    for (int64_t k = 0; k < K; ++k) {
        layer.T.get(k, e.templates + k * d);
        e.bias[k] = layer.b[k];
        if (e.velocity) velocity.get(k, e.velocity + k * d);
    }
    return !ended;
}

template <class Held>
bool evaluate(Evaluation &e) {
    const int64_t d = e.rows.d, K = e.K, stride = round_up(K, LANES);
    const Standardization standardization(e.rows);
    const Layer layer(e.templates, e.bias, K, standardization, d);
    Chunk<Held> chunk(e.rows, standardization, smaller(e.count, K > CLASSES ? CHUNK_ROWS : 64), K);
    Memory<float> S(chunk.panels.count * stride);
    Patience patience{e.interrupted};
    e.loss_sum = 0;
    e.right = 0;
    for (int64_t start = 0; start < e.count; start += chunk.panels.count) {
        const int64_t n = smaller(chunk.panels.count, e.count - start);
        chunk.take(e.places + start, n, e.count - start);
        chunk.stay_or_copy(e.places + start, n);
        forward(chunk, n, layer, S, stride);
        for (int64_t i = 0; i < n; ++i) {
            float *s = S + i * stride;
            int64_t best = 0;
            for (int64_t k = 1; k < K; ++k) best = s[k] > s[best] ? k : best;
            if (best == chunk.labels[i]) e.right += chunk.weights[i];
            e.loss_sum += chunk.weights[i] * finish<false, true>(s, K, stride, chunk.labels[i], e.loss, 1);
        }
        if (patience.ends(n * d * K)) return false;
    }
    return true;
}

template <class Held>
bool objective(Objective &o) {
    const int64_t d = o.rows.d, K = o.K, stride = round_up(K, LANES);
    const Standardization standardization(o.rows);
    const Layer layer(o.templates, o.bias, K, standardization, d);
    Chunk<Held> chunk(o.rows, standardization, o.count, K);
    const Panels<double> gradient(K, d);
    Memory<float> S(chunk.panels.count * stride);
    Patience patience{o.interrupted};
    const float share = o.loss == Loss::softmax ? 1 : 1.0f / float(K);
    o.loss_sum = 0;
    for (int64_t k = 0; k < K; ++k) o.bias_gradient[k] = 0;
    for (int64_t start = 0; start < o.count; start += chunk.panels.count) {
        const int64_t n = smaller(chunk.panels.count, o.count - start);
        chunk.take(o.places + start, n, o.count - start);
        chunk.copy(o.places + start, n);
        forward(chunk, n, layer, S, stride);
        for (int64_t i = 0; i < n; ++i) {
            float *s = S + i * stride;
            const double w = chunk.weights[i];
            o.loss_sum += w * finish<true, true>(s, K, stride, chunk.labels[i], o.loss, share * float(w));
            for (int64_t k = 0; k < K; ++k) o.bias_gradient[k] += double(s[k]);
        }
        backward(chunk.panels, Residuals{S, n, stride}, K, Sums{gradient});
        if (patience.ends(n * d * K)) return false;
    }
    write_gradient(gradient, o.bias_gradient, o.rows, o.gradient);
    return true;
}

// Copies a matrix (rows, columns) whose rows are `from_stride` numbers apart as its transpose, a tile at a time.
void transpose(const float *from, int64_t from_stride, int64_t rows, int64_t columns, float *to, int64_t to_stride) {
    constexpr int64_t TILE = 16;
    for (int64_t i = 0; i < rows; i += TILE)
        for (int64_t j = 0; j < columns; j += TILE)
            for (int64_t jj = j; jj < smaller(j + TILE, columns); ++jj)
                for (int64_t ii = i; ii < smaller(i + TILE, rows); ++ii)
                    to[jj * to_stride + ii] = from[ii * from_stride + jj];
}

template <class Held>
bool scores(const Scores &s) {
    const int64_t d = s.rows.d, K = s.K, stride = round_up(K, LANES);
    const Standardization standardization(s.rows);
    const Folded layer(s.templates, K, s.rows);
    Chunk<Held> chunk(s.rows, standardization, smaller(s.count, K > CLASSES ? CHUNK_ROWS : 64), K);
    Memory<float> S(chunk.panels.count * stride);
    Patience patience{s.interrupted};
    for (int64_t start = 0; start < s.count; start += chunk.panels.count) {
        const int64_t n = smaller(chunk.panels.count, s.count - start);
        chunk.take(s.places + start, n, s.count - start);
        chunk.stay_or_copy(s.places + start, n);
        forward(chunk, n, layer, S, stride);
        transpose(S, stride, n, K, s.scores + start, s.stride);
        if (patience.ends(n * d * K)) return false;
    }
    return true;
}

template <class Held>
bool gradient(const Gradient &g) {
    const int64_t d = g.rows.d, K = g.K, stride = round_up(K, LANES);
    const Standardization standardization(g.rows);
    Chunk<Held> chunk(g.rows, standardization, g.count, K);
    const Panels<double> sums(K, d);
    Memory<double> of_residuals(K);
    Memory<float> G(chunk.panels.count * stride);
    Patience patience{g.interrupted};
    for (int64_t start = 0; start < g.count; start += chunk.panels.count) {
        const int64_t n = smaller(chunk.panels.count, g.count - start);
        chunk.copy(g.places + start, n);
        transpose(g.residuals + start, g.stride, K, n, G, stride);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t k = 0; k < K; ++k) of_residuals[k] += double(G[i * stride + k]);
        backward(chunk.panels, Residuals{G, n, stride}, K, Sums{sums});
        if (patience.ends(n * d * K)) return false;
    }
    write_gradient(sums, of_residuals, g.rows, g.gradient);
    return true;
}

bool standardise(const Standardised &s) {
    const Standardization standardization(s.rows, false);
    Chunk<float> chunk(s.rows, standardization, smaller(s.count, 2), 1);  // they stay in the L1 cache
    Patience patience{s.interrupted};
    for (int64_t start = 0; start < s.count; start += chunk.panels.count) {
        const int64_t n = smaller(chunk.panels.count, s.count - start);
        chunk.copy(s.places + start, n);
        for (int64_t i = 0; i < n; ++i) chunk.panels.get(i, s.rows_out + (start + i) * s.rows.d);
        if (patience.ends(n * s.rows.d)) return false;
    }
    return true;
}

// Calls f<Held>() for the type in which a chunk holds the rows.
template <class F>
bool with_held(const Visit &visit, F &&f) {
    if constexpr (!SMALL)
        if (visit.rows.type == Type::uint8 && !visit.rows.width && visit.K <= 2 * CLASSES)
            return f.template operator()<uint8_t>();
    return f.template operator()<float>();
}

bool run_epoch(const Epoch &e) {
    return with_held(e, [&]<class Held>() { return epoch<Held>(e); });
}

bool run_evaluation(Evaluation &e) {
    return with_held(e, [&]<class Held>() { return evaluate<Held>(e); });
}

bool run_objective(Objective &o) {
    return with_held(o, [&]<class Held>() { return objective<Held>(o); });
}

bool run_scores(const Scores &s) {
    return with_held(s, [&]<class Held>() { return scores<Held>(s); });
}

bool run_gradient(const Gradient &g) {
    return with_held(g, [&]<class Held>() { return gradient<Held>(g); });
}

}  // namespace

extern const Kernel KERNEL = {KERNEL_NAME,  run_epoch,   run_evaluation, run_objective, run_scores,
                              run_gradient, standardise, PROBABILITIES,  PATCHES};

}  // namespace onelayer
