// The calls of the kernel. kernel.cpp is compiled once for each set of instructions.
#pragma once

#include <cstdint>

namespace onelayer {

enum class Loss : int { softmax, sigmoid };

// Rows as they are stored: pixels, whose standardisation is folded into the layer, or features, which are standardised
// a few rows at a time. Exactly one of the two first pointers is set.
struct Rows {
    const uint8_t *pixels;  // (n, d)
    const float *features;  // (n, d)
    const int64_t *labels;  // (n,)
    const double *weights;  // (n,), factors on the rows' losses, or null: 1
    const double *mean;     // (d,)
    const double *scale;    // (d,), infinite where a feature is constant: rows become 0 there, and gradients too
    int64_t d;
};

// The data of every pass over rows. Its layer has K classes; templates are (K, d), and the bias (K,).
struct Pass {
    Rows rows;
    const int64_t *places;  // (count,), of the rows, in the order of the visits
    int64_t count, K;
    Loss loss;
    bool (*interrupted)();  // asked now and then; true ends the pass
};

struct Epoch : Pass {
    float *templates, *bias;  // updated
    const uint8_t *flipped;   // (count,), or null
    int64_t width;            // of an image, for flips
    int64_t batch_size;
    float learning_rate, l2;
};

struct Evaluation : Pass {
    const float *templates, *bias;
    double loss_sum, right;  // results: sums over the rows, each times its weight
};

struct Objective : Pass {
    const float *templates, *bias;
    // Results: sums over the rows, each times its weight.
    double loss_sum;
    double *gradient;       // (K, d), of the loss with respect to the weights for standardised rows
    double *bias_gradient;  // (K,)
};

[[noreturn]] void out_of_memory();  // throws

struct Kernel {
    const char *name;
    bool (*run_epoch)(const Epoch &);  // false: interrupted
    bool (*evaluate)(Evaluation &);
    bool (*objective)(Objective &);
};

extern const Kernel baseline_kernel;
#ifdef ONELAYER_X86
extern const Kernel avx2_kernel, avx512_kernel;
#endif

}  // namespace onelayer
