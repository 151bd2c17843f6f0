// The little of the standard library that the kernel takes, for a target that has none: WebAssembly without a C library.
// tools/build_wasm.sh puts it in the place of each header that the kernel includes.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define INFINITY __builtin_inff()

extern "C" {
double log(double x);
void *aligned_alloc(size_t alignment, size_t bytes);
void free(void *);
void *memcpy(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
}

namespace std {

template <class T, T... I>
struct integer_sequence {};
template <class T, T N>
using make_integer_sequence = __make_integer_seq<integer_sequence, T, N>;

template <class A, class B>
constexpr bool is_same_v = false;
template <class A>
constexpr bool is_same_v<A, A> = true;

}  // namespace std
