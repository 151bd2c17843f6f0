// Losses, probabilities and their means from scores (K, n), in one sweep: for the converged solver, which keeps the
// scores of all rows and looks at them more often than at the rows.
//
// Columns lie along the lanes, and all classes of a few columns stay in the L2 cache.

#include "kernel.hpp"
#include "memory.hpp"
#include "vector.hpp"

#include <math.h>

namespace onelayer {
namespace {

constexpr int64_t MOST_COLUMNS = 256, COLUMN_BYTES = 256 << 10;  // of the columns that are looked at together

// A sum of logarithms, each times a weight. As long as the weights are equal and a double has room, one logarithm is
// taken of the product of many numbers from 1 to 2^900.
struct Logarithms {
    double total = 0, product = 1, weight = 0;
    void add(double x, double times) {
        if (times != weight || product > 0x1p100) total += weight * log(product), product = 1, weight = times;
        product *= x;
    }
    double sum() const { return total + weight * log(product); }
};

// The columns of a (K, n) array that are looked at together, all classes of which stay in the L2 cache.
struct Columns {
    explicit Columns(int64_t K)
        : K(K), most(smaller(MOST_COLUMNS, COLUMN_BYTES / (K * int64_t(sizeof(float))) / LANES * LANES)),
          Z(K * width()), largest(width()), factors(width()), sums(width()), products(width()), weights(width()) {}
    int64_t width() const { return most < LANES ? LANES : most; }
    // Logits less the largest of a column become exponentials, and `sums` those of a column. Floats have digits for a
    // few, but not for small ones beside a 1: ones are counted.
    void exponentials(int64_t n) {
        for (int64_t i = 0; i < n; ++i) sums[i] = 0;
        for (int64_t first = 0; first < K; first += 16)
            for (int64_t i = 0; i < n; i += LANES) {
                Vector few = {}, ones = {};
                for (int64_t k = first; k < smaller(first + 16, K); ++k) {
                    const Vector e = exponential(load(Z + k * width() + i) - load(largest + i));
                    const Vector one = e >= 1 ? splat(1) : Vector{};
                    store(Z + k * width() + i, e);
                    few += e - one;
                    ones += one;
                }
                add(few, sums + i);
                add(ones, sums + i);
            }
    }
    // Logits become the probabilities of sigmoids. The losses of the false answers of all classes are `sums`, those of
    // positive logits, and logarithms, which are taken from time to time.
    void sigmoids(int64_t n, Logarithms &logarithms) {
        for (int64_t i = 0; i < n; ++i) sums[i] = 0, products[i] = 1;
        for (int64_t k = 0; k < K; ++k) {
            for (int64_t i = 0; i < n; i += LANES) {
                const Vector x = load(Z + k * width() + i), e = exponential(x > 0 ? -x : x);
                store(Z + k * width() + i, (x >= 0 ? splat(1) : e) / (1 + e));
                add(larger(x, Vector{}), sums + i);
                store(products + i, load(products + i) * (1 + in_double<0>(e)));
                store(products + i + LANES / 2, load(products + i + LANES / 2) * (1 + in_double<1>(e)));
            }
            if (k % 512 == 511 || k == K - 1)
                for (int64_t i = 0; i < n; ++i) logarithms.add(products[i], weights[i]), products[i] = 1;
        }
    }
    int64_t K, most;
    Memory<float> Z, largest, factors;  // Z (K, width)
    Memory<double> sums, products, weights;
};

}  // namespace

bool PROBABILITIES(Probabilities &q) {
    const int64_t K = q.K;
    Columns columns(K);
    const int64_t width = columns.width();
    Logarithms logarithms;
    Patience patience{q.interrupted};
    q.loss_sum = 0;
    for (int64_t k = 0; k < K; ++k) q.means[k] = 0;
    for (int64_t start = 0; start < q.n; start += width) {
        const int64_t n = smaller(width, q.n - start);
        const double *weights = q.weights + start;
        for (int64_t i = 0; i < width; ++i) {
            columns.weights[i] = i < n ? weights[i] : 0;
            columns.largest[i] = -INFINITY;
        }
        for (int64_t k = 0; k < K; ++k)
            for (int64_t i = 0; i < n; i += LANES) {
                const Vector z = load_some(q.scores + k * q.scores_stride + start + i, n - i) + float(q.bias[k]);
                store(columns.Z + k * width + i, z);
                store(columns.largest + i, larger(z, load(columns.largest + i)));
            }
        for (int64_t i = 0; i < n; ++i) q.loss_sum -= weights[i] * double(columns.Z[q.labels[start + i] * width + i]);
        if (q.loss == Loss::softmax) {
            columns.exponentials(n);
            for (int64_t i = 0; i < n; ++i) {
                logarithms.add(columns.sums[i], weights[i]);
                q.loss_sum += weights[i] * double(columns.largest[i]);
                columns.factors[i] = float(1 / columns.sums[i]);
            }
        } else {
            columns.sigmoids(n, logarithms);
            for (int64_t i = 0; i < n; ++i) q.loss_sum += weights[i] * columns.sums[i], columns.factors[i] = 1;
        }
        for (int64_t k = 0; k < K; ++k) {
            Doubles first = {}, second = {};  // of the lanes
            for (int64_t i = 0; i < n; i += LANES) {
                const Vector p = load(columns.Z + k * width + i) * load(columns.factors + i);
                store_some(q.probabilities + k * q.probabilities_stride + start + i, p, n - i);
                first += in_double<0>(p) * load(columns.weights + i);
                second += in_double<1>(p) * load(columns.weights + i + LANES / 2);
            }
            for (int lane = 0; lane < LANES / 2; ++lane) q.means[k] += first[lane] + second[lane];
        }
        if (patience.ends(n * K * 16)) return false;
    }
    q.loss_sum += logarithms.sum();
    return true;
}

}  // namespace onelayer
