// Elementary functions of a vector of float32, for the loops that spend their time in them.
//
// They need what plain C++ has no word for: a minimum that keeps NaN in one instruction, rounding, scaling by a power of two. Relative
// error is at most 3e-7 over the whole range unless said, denormals included; NaN stays NaN and the infinities go where libm sends
// them. The polynomials are minimax fits over the intervals named beside them.
#pragma once

#include <immintrin.h>

#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

#ifdef __AVX512F__
inline Floats fma(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
// The second operand where one is NaN.
inline Floats least_or(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
inline Floats most_or(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
inline Floats rounded(Floats x) { return (Floats)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x 2^n for an integer n from -252 to 254.
inline Floats scaled(Floats x, Floats n) { return (Floats)_mm512_scalef_ps((__m512)x, (__m512)n); }
#else
inline Floats fma(Floats a, Floats b, Floats c) { return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline Floats least_or(Floats a, Floats b) { return (Floats)_mm256_min_ps((__m256)a, (__m256)b); }
inline Floats most_or(Floats a, Floats b) { return (Floats)_mm256_max_ps((__m256)a, (__m256)b); }
inline Floats rounded(Floats x) { return (Floats)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Floats scaled(Floats x, Floats n) {
  const auto whole = (Vector<int32_t, kFloats>)_mm256_cvtps_epi32((__m256)n);
  const auto half = whole >> 1, rest = whole - half;
  return x * (Floats)((half + 127) << 23) * (Floats)((rest + 127) << 23);
}
#endif

// The floats at these offsets; 0 where one is negative. Gathers of 16 are slower than two of 8 on Zen 4.
inline __m256 gather8(const float* from, __m256i offsets) {
  return _mm256_mask_i32gather_ps(__m256{}, from, offsets, (__m256) ~(Vector<int32_t, 8>)offsets, 4);
}
inline Floats gather(const float* from, Vector<int32_t, kFloats> offsets) {
#ifdef __AVX512F__
  const __m256 high = gather8(from, _mm512_extracti64x4_epi64((__m512i)offsets, 1));
  return (Floats)_mm512_insertf32x8(_mm512_castps256_ps512(gather8(from, _mm512_castsi512_si256((__m512i)offsets))), high, 1);
#else
  return (Floats)gather8(from, (__m256i)offsets);
#endif
}

// Whether a comparison holds in some lane.
inline bool any(Vector<int32_t, kFloats> comparison) {
#ifdef __AVX512F__
  return _mm512_movepi32_mask((__m512i)comparison) != 0;
#else
  return _mm256_movemask_ps((__m256)comparison) != 0;
#endif
}

template <typename... Rest>
inline Floats polynomial(Floats x, float first, Rest... rest) {
  Floats sum = all(first);
  ((sum = fma(sum, x, all(rest))), ...);
  return sum;
}

constexpr uint32_t sign_bit = 0x80000000u;
inline Floats absolute(Floats x) { return (Floats)((Vector<uint32_t, kFloats>)x & ~sign_bit); }
inline Floats copysign(Floats magnitude, Floats sign) {
  using Bits = Vector<uint32_t, kFloats>;
  return (Floats)(((Bits)magnitude & ~sign_bit) | ((Bits)sign & sign_bit));
}

// e^x = 2^n e^r: n, and r with |r| <= ln(2) / 2.
struct Reduced {
  Floats n, r;
};
inline Reduced reduced(Floats x) {
  const Floats n = rounded(x * 1.44269504f);
  return {n, fma(n, all(1.90465421e-9f), fma(n, all(-0.693147182f), x))};
}

inline Floats exp(Floats x) {
  const Reduced e = reduced(most_or(all(-105.0f), least_or(all(89.0f), x)));
  return scaled(polynomial(e.r, 1.392637600e-3f, 8.363333082e-3f, 4.166655346e-2f, 1.666657606e-1f, 5.0e-1f, 1.0f, 1.0f), e.n);
}

// e^x - 1 without cancellation near 0, for x from -87 to 87.
inline Floats expm1_within(Floats x) {
  const Reduced e = reduced(x);
  const Floats tail = polynomial(e.r, 1.392637600e-3f, 8.363333082e-3f, 4.166655346e-2f, 1.666657606e-1f, 5.0e-1f);
  const Floats scale = scaled(all(1.0f), e.n);
  return fma(scale, fma(tail, e.r * e.r, e.r), scale - 1.0f);
}

// The same for x up to 80.
inline Floats expm1(Floats x) { return expm1_within(most_or(all(-30.0f), least_or(all(80.0f), x))); }
inline Floats expm1_of_twice(Floats x) { return expm1_within(least_or(all(20.0f), absolute(x + x))); }  // tanh(10) rounds to 1

// 2^x for x from -149 to 127; error 1e-7.
inline Floats exp2_below(Floats x) {
  const Floats n = rounded(x);
  const Floats f = x - n;
  return scaled(polynomial(f, 1.327647245e-3f, 9.675541893e-3f, 5.550713092e-2f, 2.402212024e-1f, 6.931469440e-1f, 1.0f), n);
}

#ifdef __AVX512F__
// 2^x for x up to 127, to 2^-18: for what is rounded to bfloat16 next. 0 from -127 down, -infinity included. The products keep AVX-512's
// two multipliers busy, so the power of two is an integer added to the exponent of a number in [1, 2], which other units do.
inline Floats exp2_roughly(Floats x) {
  const Floats bounded = most_or(all(-127.0f), x);
  const __m512 n = _mm512_roundscale_ps((__m512)bounded, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  const Floats mantissa = polynomial(bounded - (Floats)n, 1.342668682e-2f, 5.224247013e-2f, 2.412802067e-1f, 6.930448447e-1f, 1.0f);
  return (Floats)_mm512_add_epi32((__m512i)mantissa, _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23));
}
#endif

inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exp(-x)); }
inline Floats silu(Floats x) { return x / (1.0f + exp(-x)); }

inline Floats tanh(Floats x) {
  const Floats m = expm1_of_twice(x);
  return copysign(m / (m + 2.0f), x);
}

// sigmoid(x) tanh(y) with one division.
inline Floats sigmoid_tanh(Floats x, Floats y) {
  const Floats m = expm1_of_twice(y);
  return copysign(m / ((m + 2.0f) * (1.0f + exp(-x))), y);
}

inline Floats erf(Floats x) {
  const Floats magnitude = absolute(x);
  const Floats small = polynomial(x * x, 7.875875063e-5f, -8.016864287e-4f, 5.189087423e-3f, -2.685421201e-2f, 1.128359472e-1f,
                                  -3.761262667e-1f, 1.128379166f);  // erf(x) / x, |x| <= 1
  const Floats log_erfc = polynomial(least_or(all(4.0f), magnitude), -1.622679171e-6f, 4.578624700e-5f, -5.946317951e-4f, 4.749935118e-3f,
                                     -2.639505451e-2f, 1.100362846e-1f, 6.318707643e-1f, 1.130208030f,
                                     -3.139770934e-4f);  // -log(erfc(t)), 0.95 to 4.05; erf(4) rounds to 1
  return magnitude < 1.0f ? x * small : copysign(1.0f - exp(-log_erfc), x);
}

// x tanh(log(1 + e^x)); with e = e^x the tanh is e (e + 2) / (e (e + 2) + 2), which is 1 in float32 beyond x = 20.
inline Floats mish(Floats x) {
  const Floats e = exp(least_or(all(20.0f), x));
  const Floats product = e * (e + 2.0f);
  return x * (product / (product + 2.0f));
}

// x Phi(x), Phi the normal distribution: with h = Phi(-|x|) that is x (1 - h) or x h, which cancels nowhere. Absolute error of Phi: 5e-8.
inline Floats gelu_erf(Floats x) {
  const Floats magnitude = absolute(x);
  const Floats log2_h = polynomial(least_or(all(6.0f), magnitude), -2.772055723e-6f, 3.862082667e-5f, -1.825479849e-4f, -1.458692132e-4f,
                                   7.075470407e-3f, -5.250502750e-2f, -4.592049122e-1f, -1.151105762f, -1.0f);  // log2(Phi(-z)), 0 to 6
  const Floats h = magnitude > 6.0f ? all(0.0f) : exp2_below(log2_h);
  return x * (x > 0.0f ? 1.0f - h : h);
}

inline Floats gelu_tanh(Floats x) { return 0.5f * x * (1.0f + tanh(0.797884561f * fma(0.044715f * x * x, x, x))); }

// The largest element, if none is NaN.
inline float largest(Floats x) {
#ifdef __AVX512F__
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256((__m512)x), _mm512_extractf32x8_ps((__m512)x, 1));
#else
  const __m256 eight = (__m256)x;
#endif
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// f of each element, in vectors; y may be a.
template <typename F>
inline void each(float* y, const float* a, int64_t count, F f) {
  int64_t i = 0;
  for (; i + kFloats <= count; i += kFloats) store_raw(y + i, f(load<kFloats>(a + i)));
  const int64_t left = count - i;
  if (left == 0) return;
  float rest[kFloats] = {};
  for (int64_t j = 0; j < left && j < kFloats; j++) rest[j] = a[i + j];
  store_raw(rest, f(load<kFloats>(rest)));
  for (int64_t j = 0; j < left && j < kFloats; j++) y[i + j] = rest[j];
}

}  // namespace drystone::DRYSTONE_ISA
