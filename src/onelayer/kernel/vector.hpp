// Vectors of floats, for the instruction set this is compiled for; everything has internal linkage.
#pragma once

// Nothing here may come from an inline function of the standard library: the linker keeps one copy of each, and that
// could be the one compiled for instructions that this machine lacks.
#include <stdint.h>
#include <string.h>

#include "kernel.hpp"

#include <type_traits>  // types only
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

namespace onelayer {
namespace {

// A tile has 2 * CLASSES accumulators: of 32 registers 20, of 16 registers 10. Fewer would wait for each other, more
// leave too few registers for what is multiplied. The templates of a tile take PANEL * CLASSES floats of the L1 cache.
#if defined(__AVX512F__)
constexpr int LANES = 16, CLASSES = 10, PANEL = 768;
#elif defined(__AVX2__)
constexpr int LANES = 8, CLASSES = 5, PANEL = 1024;
#elif defined(__aarch64__)
constexpr int LANES = 4, CLASSES = 10, PANEL = 768;
#else
constexpr int LANES = 4, CLASSES = 5, PANEL = 1024;
#endif
constexpr int ACCUMULATORS = 2 * CLASSES;
// A browser downloads the code: it has fewer shapes of tiles, and holds rows of any type as floats.
#if defined(__wasm__)
constexpr bool SMALL = true;
#else
constexpr bool SMALL = false;
#endif
constexpr int STEP = 4 * LANES;  // rows are padded to this

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));
typedef uint32_t Bits __attribute__((vector_size(LANES * sizeof(float))));
typedef double Doubles __attribute__((vector_size(LANES / 2 * sizeof(double))));  // as many bytes as in a Vector

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
#elif defined(__wasm_simd128__)
    v128_t integers = wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(p)));
    asm("" : "+r"(integers));  // clang would convert each lane for itself
    return reinterpret_cast<Vector>(wasm_f32x4_convert_i32x4(integers));
#else
    typedef uint8_t Bytes __attribute__((vector_size(LANES)));
    typedef int32_t Integers __attribute__((vector_size(LANES * 4)));
    Bytes bytes;
    memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(__builtin_convertvector(bytes, Integers), Vector);
#endif
}

inline Vector load(const Half *p) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vector>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))));
#elif defined(__AVX2__)
    return reinterpret_cast<Vector>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
#else
    typedef uint16_t Halves __attribute__((vector_size(LANES * sizeof(Half))));
    Halves halves;
    memcpy(&halves, p, sizeof halves);
    const Bits bits = __builtin_convertvector(halves, Bits), digits = (bits & 0x7fff) << 13;
    const Bits usual = digits + (112u << 23), endless = digits + (224u << 23);  // another bias of the exponent
    const Vector tiny = reinterpret_cast<Vector>(digits + (113u << 23)) - 0x1p-14f;  // without a leading one
    const Bits exponent = bits & 0x7c00;
    const Bits size = exponent == 0 ? reinterpret_cast<Bits>(tiny) : exponent == 0x7c00 ? endless : usual;
    return reinterpret_cast<Vector>(size | (bits & 0x8000) << 16);
#endif
}

inline float widened(uint8_t x) { return x; }
inline float widened(float x) { return x; }
inline float widened(Half x) {
    const Half one[LANES] = {x};
    return load(one)[0];
}

// A vector of the first n numbers, and zeros after them; n may be larger than it has room for.
inline Vector load_some(const float *p, int64_t n) {
    if (n >= LANES) return load(p);
    Vector v = {};
    memcpy(&v, p, size_t(n) * sizeof(float));
    return v;
}

inline void store_some(float *p, Vector v, int64_t n) {
    memcpy(p, &v, n >= LANES ? sizeof v : size_t(n) * sizeof(float));
}

inline Doubles load(const double *p) {
    Doubles v;
    memcpy(&v, p, sizeof v);
    return v;
}

inline void store(double *p, Doubles v) { memcpy(p, &v, sizeof v); }

template <int HALF, int... I>
inline Doubles in_double(Vector v, std::integer_sequence<int, I...>) {
    return __builtin_convertvector(__builtin_shufflevector(v, v, (HALF * LANES / 2 + I)...), Doubles);
}

// The first (HALF = 0) or second half of a vector. GCC would take it apart to convert it.
template <int HALF>
inline Doubles in_double(Vector v) {
#if defined(__AVX512F__)
    const __m256 half = _mm512_extractf32x8_ps(reinterpret_cast<__m512>(v), HALF);
    return reinterpret_cast<Doubles>(_mm512_maskz_cvtps_pd(0xff, half));  // of the other one, GCC 12 warns
#elif defined(__AVX2__)
    return reinterpret_cast<Doubles>(_mm256_cvtps_pd(_mm256_extractf128_ps(reinterpret_cast<__m256>(v), HALF)));
#else
    return in_double<HALF>(v, std::make_integer_sequence<int, LANES / 2>());
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

using Lanes = std::make_integer_sequence<int, LANES>;

template <int... I>
inline Vector reversed(Vector v, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(v, v, (LANES - 1 - I)...);
}

template <int G, int... I>
inline Vector swapped(Vector v, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(v, v, (I ^ G)...);
}

// Halves change places, then quarters, and so on: after op(v, swapped) at each, every lane holds the result of all.
template <int G = LANES / 2, class F>
inline float across(Vector v, F op) {
    if constexpr (G)
        return across<G / 2>(op(v, swapped<G>(v, Lanes())), op);
    else
        return v[0];
}

// The source of lane i, where the result is the first or the second half of each group of 2 G lanes of a and b.
template <int G>
constexpr int half_group(int i, int second) {
    const int j = i % (LANES / 2);
    return i / (LANES / 2) * LANES + j / G * 2 * G + second * G + j % G;
}

template <int G, int... I>
inline Vector fold(Vector a, Vector b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, half_group<G>(I, 0)...) + __builtin_shufflevector(a, b, half_group<G>(I, 1)...);
}

// The sum of vector i, of N up to LANES, in lane i; the same bits as sum(), with fewer shuffles.
template <int N, int G = LANES / 2>
inline Vector sums(const Vector *v) {
    if constexpr (G == 0) {
        return v[0];
    } else {
        Vector folded[(N + 1) / 2];
#pragma GCC unroll 16
        for (int i = 0; i < N / 2; ++i) folded[i] = fold<G>(v[2 * i], v[2 * i + 1], Lanes());
        if constexpr (N % 2) folded[N / 2] = fold<G>(v[N - 1], v[N - 1], Lanes());
        return sums<(N + 1) / 2, G / 2>(folded);
    }
}

// The sum of vector i, of N, added to to[i].
template <int N>
inline void add_sums(const Vector *v, float *to) {
    constexpr int FEW = N < LANES ? N : LANES;
    const Vector s = sums<FEW>(v);
#pragma GCC unroll 16
    for (int i = 0; i < FEW; ++i) to[i] += s[i];
    if constexpr (N > LANES) add_sums<N - LANES>(v + LANES, to + LANES);
}

// v, widened, added to the LANES numbers at `to`.
inline void add(Vector v, double *to) {
    store(to, load(to) + in_double<0>(v));
    store(to + LANES / 2, load(to + LANES / 2) + in_double<1>(v));
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

}  // namespace
}  // namespace onelayer
