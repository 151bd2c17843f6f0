// Memory and patience, which every file of the kernel needs; everything has internal linkage.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.hpp"

namespace onelayer {
namespace {

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

// Asks the caller whether to end, after about a millisecond's work: asking costs more than a small batch.
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

}  // namespace
}  // namespace onelayer
