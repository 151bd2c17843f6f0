// Numbers that patches.cpp multiplies: floats, or where BFLOAT16 is defined bfloat16, the upper halves of floats, in
// pairs. Sums are floats. Everything has internal linkage.
#pragma once

#include "vector.hpp"

namespace onelayer {
namespace {

#if defined(BFLOAT16)

constexpr int TOGETHER = 2;  // numbers of a lane
typedef uint16_t Number;

// Rounded to the nearest number, ties to even; those below 2^-126 become 0, as the instruction takes them.
inline Number rounded(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return Number(bits & 0x7f800000 ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0);
}

inline float widened(Number x) {
    const uint32_t bits = uint32_t(x) << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

// The two numbers at p in each lane.
inline Vector splat(const Number *p) {
    uint32_t both;
    memcpy(&both, p, sizeof both);
    return reinterpret_cast<Vector>(both | Bits{});
}

inline Vector load_once(const Number *p) { return load_once(reinterpret_cast<const float *>(p)); }

#if defined(__AVX512BF16__)

inline Vector plus_product(Vector sum, Vector a, Vector b) {
    return reinterpret_cast<Vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a),
                                                     reinterpret_cast<__m512bh>(b)));
}

#else

inline Vector flushed(Vector v) {
    const Bits bits = reinterpret_cast<Bits>(v);
    return reinterpret_cast<Vector>((bits & 0x7f800000) == 0 ? bits & 0x80000000 : bits);
}

// As Intel describes the instruction VDPBF16PS: the product of the second numbers of a pair is added first, each sum is
// rounded once, to nearest, and numbers below 2^-126 are zeros. Products of two bfloat16 are exact in a float.
inline Vector plus_product(Vector sum, Vector a, Vector b) {
    const Bits x = reinterpret_cast<Bits>(a), y = reinterpret_cast<Bits>(b);
    const Vector second = reinterpret_cast<Vector>(x & 0xffff0000) * reinterpret_cast<Vector>(y & 0xffff0000);
    const Vector first = reinterpret_cast<Vector>(x << 16) * reinterpret_cast<Vector>(y << 16);
    return flushed(flushed(sum + second) + first);
}

#endif

#else

constexpr int TOGETHER = 1;
typedef float Number;

inline Number rounded(float x) { return x; }
inline Vector splat(const Number *p) { return splat(*p); }
inline Vector plus_product(Vector sum, Vector a, Vector b) { return sum + a * b; }

#endif

}  // namespace
}  // namespace onelayer
