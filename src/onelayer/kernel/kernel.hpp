// The calls of the kernel. Every source except module.cpp is compiled once for each set of instructions.
#pragma once

#include <cstdint>

namespace onelayer {

enum class Loss : int { softmax, sigmoid };

enum class Type : int { uint8, float16, float32 };
struct Half { uint16_t bits; };  // float16

// Rows as they are stored: pixels (uint8), whose standardisation is folded into the layer, or features, which are
// standardised a few rows at a time.
struct Rows {
    const void *data;  // (n, stored)
    Type type;
    int64_t stored;
    int64_t width;  // of images whose right halves are added, mirrored, to the left ones; 0: rows stay as they are
    const double *mean;     // (d,)
    const double *scale;    // (d,), infinite where a feature is constant: rows become 0 there, and gradients too
    int64_t d;              // numbers of a row without its right halves
    const int64_t *labels;  // (n,), or null where no loss is taken
    const double *weights;  // (n,), factors on the rows' losses, or null: 1
};

// The data of every pass over rows. Its layer has K classes; templates are (K, d), and the bias (K,).
struct Visit {
    Rows rows;
    const int64_t *places;  // (count,), of the rows, in the order of the visits
    int64_t count, K;
    bool (*interrupted)();  // asked now and then; true ends the pass
};

struct Pass : Visit {
    Loss loss;
};

struct Epoch : Pass {
    float *templates, *bias;  // updated
    float *velocity, *bias_velocity;  // (K, d) and (K,), updated; null without momentum
    const uint8_t *flipped;   // (count,), or null
    int64_t width;            // of an image, for flips
    int64_t batch_size;
    float learning_rate, l2, momentum;
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

// Two products with the standardised rows X (count, d). A class of their (K, count) arrays lies in one piece, and
// `stride` numbers from the next.
struct Scores : Visit {
    const double *templates;  // (K, d)
    float *scores;            // result: templates X^T
    int64_t stride;
};

struct Gradient : Visit {
    const float *residuals;
    int64_t stride;
    double *gradient;  // (K, d), result: residuals X
};

struct Standardised : Visit {
    float *rows_out;  // (count, d), result
};

// Losses and probabilities of n rows from scores without the bias. A class of (K, n) arrays lies in one piece.
struct Probabilities {
    const float *scores;
    int64_t scores_stride;
    const double *bias;     // (K,)
    const int64_t *labels;  // (n,)
    const double *weights;  // (n,)
    int64_t n, K;
    Loss loss;
    bool (*interrupted)();
    // Results
    float *probabilities;
    int64_t probabilities_stride;
    double *means;    // (K,), sums of the probabilities, each times the weight of its row
    double loss_sum;  // of the losses, each times the weight of its row; of sigmoids, the sum over the classes
};

// Codes of n images (c, h, w) by filters (c, k, k). Where they are mirrored, the second half of the filters are the twins
// of the first half: their responses count in the window `across_of_twins`, and a code is of the average of both.
struct Window {
    int64_t down, across, across_of_twins;  // numbers of ranges
    int64_t place;  // of its bytes in the codes of an image: of the filters' positive responses, then the negative ones
};

struct Patches {
    const uint8_t *images;
    int64_t n, c, h, w, k, filters;
    const float *weights, *bias;  // (filters, c, k, k), (filters,)
    bool mirrored;
    double epsilon;           // added to the variance of a patch
    float threshold, scale;   // of responses; grey levels for a square root of 1
    const int64_t *down, *across;  // (downs, 2), (acrosses, 2): the first row or column of a range, and the one after it
    int64_t downs, acrosses, windows;
    const Window *window;     // (windows,)
    int64_t stride;           // bytes from an image's codes to the next
    bool (*interrupted)();
    uint8_t *codes;           // result
};

[[noreturn]] void out_of_memory();  // throws

struct Kernel {
    const char *name;
    bool (*run_epoch)(const Epoch &);  // false: interrupted
    bool (*evaluate)(Evaluation &);
    bool (*objective)(Objective &);
    bool (*scores)(const Scores &);
    bool (*gradient)(const Gradient &);
    bool (*standardise)(const Standardised &);
    bool (*probabilities)(Probabilities &);
    bool (*patches)(const Patches &);
};

extern const Kernel baseline_kernel;
bool baseline_patches(const Patches &), emulated_bf16_patches(const Patches &);
bool baseline_probabilities(Probabilities &);
#ifdef ONELAYER_X86
extern const Kernel avx2_kernel, avx512_kernel;
bool avx2_patches(const Patches &), avx512_patches(const Patches &), avx512_bf16_patches(const Patches &);
bool avx2_probabilities(Probabilities &), avx512_probabilities(Probabilities &);
#endif

}  // namespace onelayer
