// Mini-batch gradient descent and evaluation of a one-layer classifier, for the instruction set this is compiled for.
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

// Nothing here may come from an inline function of the standard library: the linker keeps one copy of each, and that
// could be the one compiled for instructions that this machine lacks.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace onelayer {
namespace {

// A tile has ROWS * CLASSES accumulators: of 32 registers 20, of 16 registers 10. Fewer would wait for each other, more
// leave too few registers for what is multiplied.
#if defined(__AVX512F__)
constexpr int LANES = 16, CLASSES = 10;
#elif defined(__AVX2__)
constexpr int LANES = 8, CLASSES = 5;
#elif defined(__aarch64__)
constexpr int LANES = 4, CLASSES = 10;
#else
constexpr int LANES = 4, CLASSES = 5;
#endif
constexpr int ACCUMULATORS = 2 * CLASSES;
constexpr int STEP = 4 * LANES;      // rows are padded to this
constexpr int64_t PANEL = 5120 / CLASSES;  // features; the templates of a tile take 20 kB of the L1 cache
constexpr int64_t CHUNK_ROWS = 128, CHUNK_BYTES = 512 << 10;  // of the rows treated together: half of an L2 cache

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t Bits __attribute__((vector_size(LANES * sizeof(float))));

inline Vector load(const float *p) {
    Vector v;
    memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float *p, Vector v) { memcpy(p, &v, sizeof v); }

inline Vector load(const uint8_t *p) {
#if defined(__AVX512F__)
    __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return reinterpret_cast<Vector>(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)));
#elif defined(__AVX2__)
    __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(p));
    return reinterpret_cast<Vector>(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
#else
    typedef uint8_t Bytes __attribute__((vector_size(LANES)));
    typedef int32_t Integers __attribute__((vector_size(LANES * 4)));
    Bytes bytes;
    memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(__builtin_convertvector(bytes, Integers), Vector);
#endif
}

// A vector that is used more than once, loaded once: GCC would put the load into each multiplication, and two loads a
// cycle are what the tiles have to be frugal with.
inline Vector load_once(const float *p) {
    Vector v = load(p);
#if defined(__x86_64__)
    asm("" : "+x"(v));
#endif
    return v;
}

inline Vector splat(float x) { return x - Vector{}; }  // x - 0 is x, which compilers know; x + 0 is not

// Halves change places, then quarters, and so on: after op(v, swapped) at each, every lane holds the result of all.
template <class F>
inline float across(Vector v, F op) {
#if defined(__AVX512F__)
    v = op(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = op(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    v = op(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#elif defined(__AVX2__)
    v = op(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
    v = op(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
#else
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
    v = op(v, __builtin_shufflevector(v, v, 1, 0, 3, 2));
#endif
    return v[0];
}

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }
inline float sum(Vector v) {
    return across(v, [](Vector a, Vector b) { return a + b; });
}

// exp(x) for x <= 0, to two units in the last place; 0 below -87, where floats lose digits; NaN stays.
inline Vector exponential(Vector x) {
    const Vector least = splat(-87.0f), shift = splat(12582912.0f);  // 1.5 * 2^23: its last binary digit counts ones
    const Vector z = x < least ? least : x;
    const Vector t = z * 1.44269504f + shift, n = t - shift;  // n is z / log 2, rounded
    const Vector r = z - n * 0.693359375f + n * 2.12194440e-4f;  // log 2 in two parts, the first of few digits
    Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;  // the polynomial of Cephes' expf
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const Bits power = (reinterpret_cast<Bits>(t) + 127) << 23;  // 2^n: the digits of `shift` leave at the top
    return x < least ? Vector{} : p * reinterpret_cast<Vector>(power);
}

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Zeroed memory, aligned to a cache line.
template <class T>
struct Memory {
    explicit Memory(int64_t n) : p(nullptr) {
        int64_t bytes;
        if (!__builtin_mul_overflow(n, int64_t(sizeof(T)), &bytes) && bytes < INT64_MAX - 64)
            p = static_cast<T *>(aligned_alloc(64, size_t(round_up(bytes + 1, 64))));
        if (!p) out_of_memory();
        memset(p, 0, size_t(bytes));
    }
    ~Memory() { free(p); }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    operator T *() const { return p; }
    T *p;
};

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

// How rows or templates of d features lie: the features of a panel side by side, then the next row's or class's.
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
    explicit Standardization(const Rows &rows) : mean(1, rows.d), inverse(1, rows.d), source(1, rows.d), rest(1, rows.d),
                                                 source_inverse(1, rows.d) {
        for (int64_t j = 0; j < rows.d; ++j) {
            const int64_t p = j / PANEL, at = j % PANEL;
            const float high = float(rows.mean[j]);
            if (rows.pixels) {
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
    Panels<float> mean, inverse;                  // of the layer
    Panels<float> source, rest, source_inverse;  // of the rows
};

// The folded layer: V = T / s (K, d) and c = b - V m (K,).
struct Layer {
    Layer(const float *templates, const float *bias, int64_t K, const Standardization &standardization, int64_t d)
        : K(K), T(K, d), V(K, d), b(K), c(K), shift(K * LANES) {
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
    int64_t K;
    Panels<float> T, V;
    Memory<float> b, c, shift;  // the last (K, LANES): partial sums of V m
};

// Some rows, copied: mirrored where they are to be, standardised where they are features.
template <class T>
struct Chunk {
    Chunk(const Rows &source, const Standardization &standardization, int64_t most)
        : source(source), standardization(standardization), panels(smaller(most, rows_for(source.d)), source.d),
          labels(panels.count), line(source.d) {}
    static int64_t rows_for(int64_t d) {  // even, as rows are treated in pairs
        const int64_t fit = CHUNK_BYTES / (d * int64_t(sizeof(T)) + 1) / 2 * 2;
        return fit < 16 ? 16 : smaller(fit, CHUNK_ROWS);
    }
    const T *row(int64_t place) const;
    void copy(int64_t i, int64_t place, int64_t flip_width) {
        labels[i] = source.labels[place];
        const T *from = row(place);
        if (flip_width) {
            for (int64_t start = 0; start < source.d; start += flip_width)
                for (int64_t x = 0; x < flip_width; ++x) line[start + x] = from[start + flip_width - 1 - x];
            from = line;
        }
        set(i, from);
    }
    void set(int64_t i, const T *from);
    const Rows &source;
    const Standardization &standardization;
    Panels<T> panels;
    Memory<int64_t> labels;
    Memory<T> line;
};

template <>
const uint8_t *Chunk<uint8_t>::row(int64_t place) const { return source.pixels + place * source.d; }
template <>
const float *Chunk<float>::row(int64_t place) const { return source.features + place * source.d; }

template <>
void Chunk<uint8_t>::set(int64_t i, const uint8_t *from) { panels.set(i, from); }

template <>
void Chunk<float>::set(int64_t i, const float *from) {
    const Standardization &s = standardization;
    for (int64_t p = 0; p < panels.panels; ++p, from += PANEL) {
        const float *mean = s.source.at(p, 0), *rest = s.rest.at(p, 0), *inverse = s.source_inverse.at(p, 0);
        float *to = panels.at(p, i);
        auto standardized = [&](Vector x, int64_t j) {
            return ((x - load(mean + j)) - load(rest + j)) * load(inverse + j);
        };
        const int64_t width = panels.width(p);
        int64_t j = 0;
        for (; j + LANES <= width; j += LANES) store(to + j, standardized(load(from + j), j));
        if (j < width) {  // what would be read past the row's end stays 0, as the inverse is there
            Vector x = {};
            memcpy(&x, from + j, size_t(width - j) * sizeof(float));
            store(to + j, standardized(x, j));
        }
    }
}

// Logits S (R, C) of R rows against C templates, over the features of a panel, added to what is there.
template <int R, int C, class T>
inline void tile_forward(const T *x, int64_t x_stride, const float *V, int64_t V_stride, int64_t width, float *S,
                         int64_t S_stride) {
    Vector acc[R][C] = {};
    for (int64_t j = 0; j < width; j += LANES) {
        Vector row[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) row[r] = load(x + r * x_stride + j);
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) {
            const Vector v = load_once(V + c * V_stride + j);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) acc[r][c] += row[r] * v;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < C; ++c) S[r * S_stride + c] += sum(acc[r][c]);
}

// Logits S (n, K), padded to S_stride with minus infinity. (To prefetch the next rows meanwhile gained nothing.)
template <class T>
void forward(const Panels<T> &X, int64_t n, const Layer &layer, float *S, int64_t S_stride) {
    const int64_t K = layer.K;
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t k = 0; k < K; ++k) S[i * S_stride + k] = layer.c[k];
        for (int64_t k = K; k < S_stride; ++k) S[i * S_stride + k] = -INFINITY;
    }
    for (int64_t p = 0; p < X.panels; ++p) {
        const int64_t width = X.padded(p);
        for_class_tiles(K, [&]<int C>(int64_t k) {
            constexpr int R = C == CLASSES ? 2 : ACCUMULATORS / C < 6 ? ACCUMULATORS / C : 6;
            const float *V = layer.V.at(p, k);
            int64_t i = 0;
            for (; i + R <= n; i += R)
                tile_forward<R, C>(X.at(p, i), X.stride, V, layer.V.stride, width, S + i * S_stride + k, S_stride);
            for (; i < n; ++i)
                tile_forward<1, C>(X.at(p, i), X.stride, V, layer.V.stride, width, S + i * S_stride + k, S_stride);
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

// Probabilities minus one-hot labels, times `share`, in place of the logits S (n, stride); 0 in the padding.
void residual(float *S, int64_t n, int64_t stride, const int64_t *labels, float share, Loss loss) {
    for (int64_t i = 0; i < n; ++i) {
        float *s = S + i * stride;
        if (loss == Loss::softmax) {
            float top;
            const float factor = share / exponentials(s, stride, &top);
            for (int64_t k = 0; k < stride; k += LANES) store(s + k, load(s + k) * factor);
        } else {
            for (int64_t k = 0; k < stride; k += LANES) {
                const Vector x = load(s + k), e = exponential(x > 0 ? -x : x);
                store(s + k, (x >= 0 ? splat(1) : e) / (1 + e) * share);
            }
        }
        s[labels[i]] -= share;
    }
}

// Loss of a row in nats; its logits are overwritten.
double loss_of(float *s, int64_t K, int64_t stride, int64_t label, Loss loss) {
    const double own = s[label];
    if (loss == Loss::softmax) {
        float top;
        const double total = exponentials(s, stride, &top);
        return log(total) - (own - double(top));
    }
    // Sum of max(z, 0) + log(1 + exp(-|z|)), z = -s for the true class and s for others. The logarithms are taken of
    // products of factors between 1 and 2, as many as a double has room for.
    double total = 0, product = 1;
    for (int64_t k = 0; k < stride; k += LANES) {
        const Vector x = load(s + k), e = exponential(x > 0 ? -x : x);
        for (int lane = 0; lane < LANES && k + lane < K; ++lane) {
            const float z = k + lane == label ? -x[lane] : x[lane];
            total += z > 0 ? double(z) : 0;
            product *= 1 + double(e[lane]);
        }
        if (product > 0x1p900) total += log(product), product = 1;
    }
    return (total + log(product)) / double(K);
}

// What a pass over the columns of a chunk needs besides the rows.
struct Update {
    const float *G;     // (n, G_stride), residuals
    int64_t G_stride;
    const float *sums;  // (K,), their column sums over the batch
    const Standardization &standardization;
    Layer &layer;
    Panels<float> *gradient;  // of the chunks of the batch so far; null where one chunk is all
    bool first, last;         // of the batch's chunks
    int64_t n;
    float learning_rate, l2;
};

// Gradient and update of B vectors of features from j of panel p on, for C classes from k on.
template <int B, int C, class T>
inline void tile_backward(const Panels<T> &X, const Update &u, int64_t p, int64_t k, int64_t j) {
    Vector total[B][C];
    {
        Vector acc[B][C] = {};
        const float *g = u.G + k;
        const T *x = X.at(p, 0) + j;
        for (int64_t i = 0; i < u.n; ++i, g += u.G_stride, x += X.stride) {
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
    Layer &layer = u.layer;
    if (u.gradient) {
        for (int c = 0; c < C; ++c)
            for (int b = 0; b < B; ++b) {
                float *so_far = u.gradient->at(p, k + c) + j + b * LANES;
                if (!u.first) total[b][c] += load(so_far);
                if (!u.last) store(so_far, total[b][c]);
            }
        if (!u.last) return;
    }
    for (int c = 0; c < C; ++c) {
        float *weights = layer.T.at(p, k + c) + j, *folded = layer.V.at(p, k + c) + j;
        Vector shift = load(layer.shift + (k + c) * LANES);
        for (int b = 0; b < B; ++b) {
            const Vector mean = load(u.standardization.mean.at(p, 0) + j + b * LANES);
            const Vector inverse = load(u.standardization.inverse.at(p, 0) + j + b * LANES);
            const Vector old = load(weights + b * LANES);
            const Vector gradient = (total[b][c] - mean * u.sums[k + c]) * inverse;
            const Vector fresh = old - u.learning_rate * (gradient + 2 * u.l2 * old);
            const Vector v = fresh * inverse;
            store(weights + b * LANES, fresh);
            store(folded + b * LANES, v);
            shift += v * mean;
        }
        store(layer.shift + (k + c) * LANES, shift);
    }
}

template <class T>
void backward(const Panels<T> &X, const Update &u) {
    if (u.last) memset(u.layer.shift.p, 0, size_t(u.layer.K) * LANES * sizeof(float));
    for (int64_t p = 0; p < X.panels; ++p)
        for_class_tiles(u.layer.K, [&]<int C>(int64_t k) {
            constexpr int B = 4 * C <= ACCUMULATORS ? 4 : 2;
            for (int64_t j = 0; j < X.padded(p); j += B * LANES) tile_backward<B, C>(X, u, p, k, j);
        });
}

// Whether the caller wants an end; asked after about a millisecond's work, as asking costs more than a small batch.
struct Patience {
    bool (*interrupted)();
    int64_t work = 0;
    bool ends(int64_t operations) {
        work += operations;
        if (work < 1 << 24) return false;
        work = 0;
        return interrupted();
    }
};

template <class T>
bool epoch(const Epoch &e) {
    const int64_t d = e.rows.d, K = e.K, stride = round_up(K, LANES);
    const Standardization standardization(e.rows);
    Layer layer(e.templates, e.bias, K, standardization, d);
    const int64_t most = smaller(e.batch_size, e.count);
    Chunk<T> chunk(e.rows, standardization, most);
    const bool chunks = most > chunk.panels.count;
    Panels<float> gradient(chunks ? K : 0, d);
    Memory<float> S(chunk.panels.count * stride), sums(stride);
    Patience patience{e.interrupted};
    bool ended = false;
    for (int64_t start = 0; start < e.count && !ended; start += e.batch_size) {
        const int64_t batch = smaller(e.batch_size, e.count - start);
        const float share = 1.0f / float(e.loss == Loss::softmax ? batch : batch * K);
        memset(sums.p, 0, size_t(stride) * sizeof(float));
        for (int64_t done = 0; done < batch && !ended;) {
            const int64_t n = smaller(chunk.panels.count, batch - done), at = start + done;
            for (int64_t i = 0; i < n; ++i)
                chunk.copy(i, e.order[at + i], e.flipped && e.flipped[at + i] ? e.width : 0);
            forward(chunk.panels, n, layer, S, stride);
            residual(S, n, stride, chunk.labels, share, e.loss);
            for (int64_t i = 0; i < n; ++i)
                for (int64_t k = 0; k < stride; k += LANES) store(sums + k, load(sums + k) + load(S + i * stride + k));
            backward(chunk.panels, Update{S, stride, sums, standardization, layer, chunks ? &gradient : nullptr,
                                          done == 0, done + n == batch, n, e.learning_rate, e.l2});
            done += n;
            ended = patience.ends(n * d * K);
        }
        for (int64_t k = 0; k < K; ++k) layer.b[k] -= e.learning_rate * sums[k];
        layer.fold_bias();
    }
    for (int64_t k = 0; k < K; ++k) {
        layer.T.get(k, e.templates + k * d);
        e.bias[k] = layer.b[k];
    }
    return !ended;
}

template <class T>
bool evaluate(Evaluation &e) {
    const int64_t d = e.rows.d, K = e.K, stride = round_up(K, LANES);
    const Standardization standardization(e.rows);
    const Layer layer(e.templates, e.bias, K, standardization, d);
    Chunk<T> chunk(e.rows, standardization, smaller(e.count, 64));
    Memory<float> S(chunk.panels.count * stride);
    Patience patience{e.interrupted};
    e.loss_sum = 0;
    e.right = 0;
    for (int64_t start = 0; start < e.count; start += chunk.panels.count) {
        const int64_t n = smaller(chunk.panels.count, e.count - start);
        for (int64_t i = 0; i < n; ++i) chunk.copy(i, e.places[start + i], 0);
        forward(chunk.panels, n, layer, S, stride);
        for (int64_t i = 0; i < n; ++i) {
            float *s = S + i * stride;
            int64_t best = 0;
            for (int64_t k = 1; k < K; ++k) best = s[k] > s[best] ? k : best;
            e.right += best == chunk.labels[i];
            e.loss_sum += loss_of(s, K, stride, chunk.labels[i], e.loss);
        }
        if (patience.ends(n * d * K)) return false;
    }
    return true;
}

bool run_epoch(const Epoch &e) { return e.rows.pixels ? epoch<uint8_t>(e) : epoch<float>(e); }
bool run_evaluation(Evaluation &e) { return e.rows.pixels ? evaluate<uint8_t>(e) : evaluate<float>(e); }

}  // namespace

extern const Kernel KERNEL = {KERNEL_NAME, run_epoch, run_evaluation};

}  // namespace onelayer
