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

#ifndef __AVX512F__
// `count` bytes, mostly eights: then in one instruction.
inline __m128i some_bytes(const std::byte* from, int64_t count) {
  if (count >= 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  __m128i bytes{};
  if (count == 8) return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  if (count > 0) __builtin_memcpy(&bytes, from, static_cast<size_t>(count));
  return bytes;
}
#endif

// The first `count` bytes of a vector, in the order for interleaving.
inline Ints ordered_bytes(const std::byte* from, int64_t count) {
#ifdef __AVX512F__
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  const __m512i bytes =
      count < 64 ? _mm512_maskz_loadu_epi8((uint64_t{1} << count) - 1, from) : _mm512_loadu_si512(static_cast<const void*>(from));
  return (Ints)_mm512_permutexvar_epi32(order, bytes);
#else
  const __m256i order = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
  const bool both = count >= 16;
  const __m128i low = both ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)) : some_bytes(from, count);
  const __m256i bytes = _mm256_set_m128i(both ? some_bytes(from + 16, count - 16) : __m128i{}, low);
  return (Ints)_mm256_permutevar8x32_epi32(bytes, order);
#endif
}

// Two columns of x, of which each channel has its codes side by side.
struct Pairs {
  Ints low, high;
};
inline Pairs interleaved(Ints a, Ints b) { return {interleaved_low(a, b), interleaved_high(a, b)}; }

}  // namespace drystone::DRYSTONE_ISA
