// The door of the kernel in a browser, instead of module.cpp. JavaScript puts arrays into memory that it reserves, and
// passes their addresses; it checks what it passes. Memory that the kernel takes while it works is free when it returns.

#include "kernel.hpp"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT(name) extern "C" __attribute__((export_name(#name)))

extern "C" unsigned char __heap_base;
extern "C" __attribute__((import_module("math"), import_name("log"))) double javascript_log(double x);

namespace onelayer {
namespace {

constexpr uint64_t PAGE = 65536;
uintptr_t top = 0;  // of the memory in use
Visit visited;

void *take(size_t bytes) {
    if (!top) top = uintptr_t(&__heap_base);
    const uintptr_t begin = (top + 63) / 64 * 64;
    const uint64_t end = uint64_t(begin) + bytes, have = __builtin_wasm_memory_size(0) * PAGE;
    if (end > UINTPTR_MAX) return nullptr;
    if (end > have && __builtin_wasm_memory_grow(0, size_t((end - have + PAGE - 1) / PAGE)) == SIZE_MAX) return nullptr;
    top = uintptr_t(end);
    return reinterpret_cast<void *>(begin);
}

// Frees what was taken since.
struct Mark {
    ~Mark() { top = begin; }
    const uintptr_t begin = top;
};

// A pass over the rows that `visit` named.
template <class Pass_>
Pass_ pass() {
    Pass_ found{};
    static_cast<Visit &>(found) = visited;
    return found;
}

}  // namespace

void out_of_memory() { __builtin_trap(); }
bool baseline_patches(const Patches &) { __builtin_trap(); }  // patches.cpp is left out

EXPORT(reserve) void *reserve(size_t bytes) { return take(bytes); }  // null if the browser gives no more
EXPORT(release) void release_all() { top = 0; }

// Names the rows of the next passes, in the order of their visits; see kernel.hpp.
EXPORT(visit) void visit(const void *rows, int type, int d, const double *mean, const double *scale,
                         const int64_t *labels, const int64_t *places, int count, int K) {
    // A worker looks at its messages between two passes, and so interrupts none.
    visited = {{rows, Type(type), d, 0, mean, scale, d, labels, nullptr}, places, count, K, [] { return false; }};
}

EXPORT(run_epoch) void run_epoch(float *templates, float *bias, int loss, const uint8_t *flipped, int width,
                                 int batch_size, double learning_rate, double l2) {
    const Mark mark;
    Epoch e = pass<Epoch>();
    e.templates = templates, e.bias = bias, e.loss = Loss(loss), e.flipped = flipped, e.width = width;
    e.batch_size = batch_size, e.learning_rate = float(learning_rate), e.l2 = float(l2);
    baseline_kernel.run_epoch(e);
}

// Writes the sum of the losses, and the number of right answers, into sums (2,).
EXPORT(evaluate) void evaluate(const float *templates, const float *bias, int loss, double *sums) {
    const Mark mark;
    Evaluation e = pass<Evaluation>();
    e.templates = templates, e.bias = bias, e.loss = Loss(loss);
    baseline_kernel.evaluate(e);
    sums[0] = e.loss_sum, sums[1] = e.right;
}

// Writes logits without the bias into scores (K, count).
EXPORT(scores) void scores(const double *templates, float *scores) {
    const Mark mark;
    Scores s = pass<Scores>();
    s.templates = templates, s.scores = scores, s.stride = s.count;
    baseline_kernel.scores(s);
}

// Turns scores (K, n) into probabilities; writes the sum of the losses into sums (K + 1,), after those of the classes.
EXPORT(probabilities) void probabilities(float *scores, const double *bias, const int64_t *labels,
                                         const double *weights, int n, int K, int loss, double *sums) {
    const Mark mark;
    Probabilities q{scores, n, bias, labels, weights, n, K, Loss(loss), [] { return false; }, scores, n, sums, 0};
    baseline_kernel.probabilities(q);
    sums[K] = q.loss_sum;
}

}  // namespace onelayer

extern "C" double log(double x) { return javascript_log(x); }
extern "C" void *aligned_alloc(size_t, size_t bytes) { return onelayer::take(bytes); }
extern "C" void free(void *) {}
