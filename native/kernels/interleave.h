// Vectors of bytes whose lanes are interleaved, so that each element has its bytes of several vectors side by side.
//
// Interleaving works within 128 bits. Vectors whose dwords are in the order of ordered_bytes() give the elements in theirs: the first
// quarter of the bytes in what pairs_low() makes of two interleaved_low(), and so on.
#pragma once

#include "kernels/codes.h"

namespace drystone::DRYSTONE_ISA {

inline Ints interleaved_low(Ints a, Ints b) {
#ifdef __AVX512F__
  return (Ints)_mm512_unpacklo_epi8((__m512i)a, (__m512i)b);
#else
  return (Ints)_mm256_unpacklo_epi8((__m256i)a, (__m256i)b);
#endif
}
inline Ints interleaved_high(Ints a, Ints b) {
#ifdef __AVX512F__
  return (Ints)_mm512_unpackhi_epi8((__m512i)a, (__m512i)b);
#else
  return (Ints)_mm256_unpackhi_epi8((__m256i)a, (__m256i)b);
#endif
}
inline Ints pairs_low(Ints a, Ints b) {
#ifdef __AVX512F__
  return (Ints)_mm512_unpacklo_epi16((__m512i)a, (__m512i)b);
#else
  return (Ints)_mm256_unpacklo_epi16((__m256i)a, (__m256i)b);
#endif
}
inline Ints pairs_high(Ints a, Ints b) {
#ifdef __AVX512F__
  return (Ints)_mm512_unpackhi_epi16((__m512i)a, (__m512i)b);
#else
  return (Ints)_mm256_unpackhi_epi16((__m256i)a, (__m256i)b);
#endif
}

// The first `count` bytes of a vector, in the order for interleaving.
inline Ints ordered_bytes(const std::byte* from, int64_t count) {
#ifdef __AVX512F__
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  const __m512i bytes =
      count < 64 ? _mm512_maskz_loadu_epi8((uint64_t{1} << count) - 1, from) : _mm512_loadu_si512(static_cast<const void*>(from));
  return (Ints)_mm512_permutexvar_epi32(order, bytes);
#else
  const __m256i order = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
  __m256i bytes{};
  if (count < 32)
    __builtin_memcpy(&bytes, from, static_cast<size_t>(count));
  else
    bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return (Ints)_mm256_permutevar8x32_epi32(bytes, order);
#endif
}

// Two columns of x, of which each channel has its codes side by side.
struct Pairs {
  Ints low, high;
};
inline Pairs interleaved(Ints a, Ints b) { return {interleaved_low(a, b), interleaved_high(a, b)}; }

}  // namespace drystone::DRYSTONE_ISA
