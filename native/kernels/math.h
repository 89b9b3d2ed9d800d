// Elementary functions of float32 without branches, so that loops over them vectorise under `#pragma omp simd`. Those of e^x are in
// vector_math.h.
//
// Relative error is at most 3e-7 over the whole range (sin, cos: |x| < 8192), denormals included; NaN stays NaN and the
// infinities go where libm sends them. The polynomials are Chebyshev fits over the intervals named beside them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace drystone::DRYSTONE_ISA {

constexpr float infinity = __builtin_inff();

inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float absolute(float x) { return __builtin_fabsf(x); }

// Horner's rule, the highest coefficient first.
template <typename T, typename... Rest>
inline T polynomial(T x, T first, Rest... rest) {
  T sum = first;
  ((sum = fma(sum, x, static_cast<T>(rest))), ...);
  return sum;
}

inline float from_bf16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

// To nearest, ties to even. A NaN keeps its sign and becomes quiet, so that rounding can't carry it into infinity.
inline uint16_t to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40;
  return static_cast<uint16_t>(x != x ? quiet : rounded);
}

// Comparisons written so that a NaN operand is the result, as in torch.
inline float maximum(float a, float b) { return (a > b) | (a != a) ? a : b; }
inline float minimum(float a, float b) { return (a < b) | (a != a) ? a : b; }
inline float clamp(float x, float low, float high) {
  const float above = x < low ? low : x;
  return above > high ? high : above;
}

inline float log(float x) {
  const bool denormal = x < 1.17549435e-38f;
  const float scaled = denormal ? x * 8388608.0f : x;
  const uint32_t bits = bits_of(scaled);
  // The exponent that leaves the mantissa between sqrt(1/2) and sqrt(2).
  const int32_t exponent = static_cast<int32_t>(bits - 0x3f3504f3) >> 23;
  const float f = float_of(bits - (static_cast<uint32_t>(exponent) << 23)) - 1.0f;
  const float e = static_cast<float>(exponent) - (denormal ? 23.0f : 0.0f);
  const float p = polynomial(f, 6.972518634e-2f, -1.148121206e-1f, 1.168578472e-1f, -1.242552336e-1f, 1.424900724e-1f, -1.666780713e-1f,
                             2.000071721e-1f, -2.499999693e-1f, 3.333333117e-1f);
  const float square = f * f;
  const float low = fma(square * f, p, fma(e, 1.42860677e-6f, -0.5f * square));
  const float finite = fma(e, 0.693145752f, f + low);
  const float special = x == 0.0f ? -infinity : x > 0.0f ? x : __builtin_nanf("");
  return (x > 0.0f) & (x < infinity) ? finite : x != x ? x : special;
}

// log(1 + x) without the loss of 1 + x: what rounding took from x is put back in proportion (Higham, Accuracy and Stability, 1.14.1).
inline float log1p(float x) {
  const float sum = 1.0f + x;
  const float corrected = log(sum) * (x / (sum - 1.0f));
  const float near = sum == 1.0f ? x : corrected;
  return (sum > 0.0f) & (sum < infinity) ? near : log(sum);
}

// sin and cos for |x| < 8192: quarter turns are taken off in three parts, the rest lies within pi / 4.
struct Turn {
  uint32_t quarter;
  float sine, cosine;
};

inline Turn split_turn(float x) {
  constexpr float round = 12582912.0f;
  const float shifted = fma(x, 0.636619772f, round);
  const float n = shifted - round;
  const float r = fma(n, 1.71512489e-15f, fma(n, 4.37113883e-8f, fma(n, -1.57079637f, x)));
  const float square = r * r;
  const float sine = polynomial(square, 2.724340926e-6f, -1.984003594e-4f, 8.333331780e-3f, -1.666666666e-1f);
  const float cosine = polynomial(square, -2.729552021e-7f, 2.480055798e-5f, -1.388888759e-3f, 4.166666666e-2f, -0.5f);
  return {bits_of(shifted), fma(sine * square, r, r), fma(cosine, square, 1.0f)};
}

inline float sin(float x) {
  const Turn turn = split_turn(x);
  const float value = turn.quarter & 1 ? turn.cosine : turn.sine;
  return float_of(bits_of(value) ^ ((turn.quarter & 2) << 30));
}

inline float cos(float x) {
  const Turn turn = split_turn(x);
  const float value = turn.quarter & 1 ? turn.sine : turn.cosine;
  return float_of(bits_of(value) ^ (((turn.quarter + 1) & 2) << 30));
}

// x^y by way of double, since an error of log2(x) is multiplied by y: 2^(y log2 |x|), then the special cases of C's pow.
inline float pow(float x, float y) {
  const float magnitude = absolute(x);
  const bool denormal = magnitude < 1.17549435e-38f;
  const uint32_t bits = bits_of(denormal ? magnitude * 8388608.0f : magnitude);
  const int32_t exponent = static_cast<int32_t>(bits - 0x3f3504f3) >> 23;
  const double mantissa = float_of(bits - (static_cast<uint32_t>(exponent) << 23));
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double series = polynomial(s * s, 2.83004431171245907e-01, 3.19898878831169797e-01, 4.12209405846689914e-01,
                                   5.77077940985341042e-01, 9.61796694117554196e-01, 2.88539008177784817e+00);
  const double finite_log = fma(series, s, static_cast<double>(exponent - (denormal ? 23 : 0)));
  const double product = finite_log * static_cast<double>(y);
  const double above = product < -200.0 ? -200.0 : product;
  const double power = above > 200.0 ? 200.0 : above;
  constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = power + round;
  const double f = power - (shifted - round);
  const double fraction = polynomial(f, 1.53037211308013668e-05, 1.54697557449258222e-04, 1.33334784098653987e-03, 9.61802553039820853e-03,
                                     5.55041090637373724e-02, 2.40226512141200527e-01, 6.93147180556827447e-01, 9.99999999959496955e-01);
  const uint64_t scale = (__builtin_bit_cast(uint64_t, shifted) << 52) + 0x3ff0000000000000;
  const float positive = static_cast<float>(fraction * __builtin_bit_cast(double, scale));

  // Each case is one selection over the ones before it: nested conditions would become branches.
  const bool integer = __builtin_truncf(y) == y;
  const float half = 0.5f * y;
  const bool odd = integer & (__builtin_truncf(half) != half);
  const float at_edge = (magnitude == 0.0f) == (y < 0.0f) ? infinity : 0.0f;
  const float size = (magnitude == 0.0f) | (magnitude == infinity) ? at_edge : positive;
  const uint32_t sign = bits_of(x) & (odd ? 0x80000000u : 0u);
  const float signed_size = float_of(bits_of(size) | sign);
  const bool invalid = (x < 0.0f) & (x > -infinity) & !integer;
  const float valid = invalid ? __builtin_nanf("") : signed_size;
  const float number = (x != x) | (y != y) ? x + y : valid;
  const bool one = (y == 0.0f) | (x == 1.0f) | ((x == -1.0f) & (absolute(y) == infinity));
  return one ? 1.0f : number;
}

}  // namespace drystone::DRYSTONE_ISA
