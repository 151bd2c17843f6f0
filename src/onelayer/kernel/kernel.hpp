// What the kernel does, apart from the instructions it is compiled for: kernel.cpp is compiled once for each set.
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
    const float *weights;   // (n,), factors on the rows' losses in training, or null: 1
    const double *mean;     // (d,)
    const double *scale;    // (d,), infinite where a feature is constant: rows become 0 there, and gradients too
    int64_t d;
};

struct Epoch {
    Rows rows;
    const int64_t *places;   // (count,), of the rows, in the order of the visits
    const uint8_t *flipped;  // (count,), or null
    int64_t width;           // of an image, for flips
    int64_t count, batch_size;
    float *templates;        // (K, d), updated
    float *bias;             // (K,), updated
    int64_t K;
    float learning_rate, l2;
    Loss loss;
    bool (*interrupted)();   // asked now and then; true ends the epoch
};

struct Evaluation {
    Rows rows;
    const int64_t *places;   // (count,)
    int64_t count;
    const float *templates;  // (K, d)
    const float *bias;       // (K,)
    int64_t K;
    Loss loss;
    bool (*interrupted)();
    double loss_sum;         // results
    int64_t right;
};

[[noreturn]] void out_of_memory();  // throws

struct Kernel {
    const char *name;
    bool (*run_epoch)(const Epoch &);  // false: interrupted
    bool (*evaluate)(Evaluation &);
};

extern const Kernel baseline_kernel;
#ifdef ONELAYER_X86
extern const Kernel avx2_kernel, avx512_kernel;
#endif

}  // namespace onelayer
