// The instruction sets that this processor runs, and the one that is in use.

#include "variants.hpp"

#ifdef ONELAYER_X86
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>

namespace onelayer {
namespace {

#ifdef ONELAYER_X86
// Whether float16 can be converted; not all compilers know it by name.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && c & 1u << 29;
}
#endif

bool runs_here(const Kernel &kernel) {
#ifdef ONELAYER_X86
    if (&kernel == &avx512_kernel)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("fma");
    if (&kernel == &avx2_kernel)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
    return &kernel == &baseline_kernel;
}

#ifdef ONELAYER_AVX512_BF16
// Registers are the same as for AVX-512, so that the system saves them.
bool has_avx512_bf16() {
    unsigned a, b, c, d;
    return runs_here(avx512_kernel) && __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 &&
           __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & 1u << 5;
}
#endif

Kernel with_patches(Kernel kernel, const char *name, bool (*patches)(const Patches &)) {
    kernel.name = name;
    kernel.patches = patches;
    return kernel;
}

// Kernels that multiply patches in bfloat16, which this machine can run. They are chosen only by name: where the first
// was measured, it took longer than float32 (docs/patches.md), and the other imitates its instructions slowly.
std::vector<const Kernel *> bfloat16_kernels() {
    static const Kernel emulated = with_patches(baseline_kernel, "emulated-bf16", emulated_bf16_patches);
#ifdef ONELAYER_AVX512_BF16
    static const Kernel avx512_bf16 = with_patches(avx512_kernel, "avx512-bf16", avx512_bf16_patches);
    if (has_avx512_bf16()) return {&avx512_bf16, &emulated};
#endif
    return {&emulated};
}

// Those that this machine can run, the quickest first.
std::vector<const Kernel *> runnable() {
    std::vector<const Kernel *> all = {
#ifdef ONELAYER_X86
        &avx512_kernel, &avx2_kernel,
#endif
        &baseline_kernel};
    std::vector<const Kernel *> good;
    for (const Kernel *kernel : all)
        if (runs_here(*kernel)) good.push_back(kernel);
    return good;
}

}  // namespace

std::vector<std::string> variants() {
    std::vector<std::string> names;
    for (const Kernel *kernel : runnable()) names.emplace_back(kernel->name);
    return names;
}

const Kernel &chosen() {
    std::vector<const Kernel *> good = runnable();
    const char *asked = std::getenv("ONELAYER_KERNEL");
    if (!asked || !*asked) return *good.front();
    for (const Kernel *kernel : bfloat16_kernels()) good.push_back(kernel);
    for (const Kernel *kernel : good)
        if (std::string(kernel->name) == asked) return *kernel;
    std::string message = std::string("ONELAYER_KERNEL=") + asked + " does not run here; this machine has";
    for (const Kernel *kernel : good) message += std::string(" ") + kernel->name;
    throw std::invalid_argument(message);
}

}  // namespace onelayer
