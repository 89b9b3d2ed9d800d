// Moving short runs of elements as block.h does, where memory may also hold codes of 8 bits (core/quantisation.h).
#pragma once

#include "core/quantisation.h"
#include "kernels/block.h"
#include "kernels/vector_math.h"

namespace drystone::DRYSTONE_ISA {

using Ints = Vector<int32_t, kFloats>;

// The nearest integers, ties to even.
inline Ints nearest(Floats x) {
#ifdef __AVX512F__
  return (Ints)_mm512_cvtps_epi32((__m512)x);
#else
  return (Ints)_mm256_cvtps_epi32((__m256)x);
#endif
}

// The nearest codes from `lowest` to `highest`, in the low bytes. What is no number becomes an integer whose low byte is 0.
inline Ints encoded(Floats x, const Affine& q, float lowest, float highest) {
  const Floats code = rounded(x * q.inverse) + q.zero_point;
  return nearest(least_or(all(highest), most_or(all(lowest), code)));
}

// By intrinsics: GCC 12 takes conversions from and to bytes apart.
#ifdef __AVX512F__
inline Ints widened(const uint8_t* from) { return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))); }
inline Ints widened(const int8_t* from) { return (Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))); }
inline void store_low_bytes(void* to, Ints x) { _mm_storeu_si128(static_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)x)); }
#else
inline Ints widened(const uint8_t* from) { return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))); }
inline Ints widened(const int8_t* from) { return (Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))); }
inline void store_low_bytes(void* to, Ints x) {
  const __m256i low = (__m256i)(x & 0xff);
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  _mm_storel_epi64(static_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}
#endif

#ifndef __AVX512F__
// Codes of two vectors at once as `encoded` gives them, of numbers that are not NaN: what is too large for a code is cut where integers
// are narrowed, which takes half of the instructions.
template <class Code>
class Narrow {
 public:
  Narrow(const Affine& q, float lowest, float highest)
      : inverse_(all(q.inverse)),
        zero_points_(_mm256_set1_epi16(static_cast<int16_t>(q.zero_point))),
        lowest_(_mm_set1_epi8(static_cast<char>(lowest))),
        highest_(_mm_set1_epi8(static_cast<char>(highest))) {}

  void store(Code* to, Floats x, Floats y) const {
    const Floats most = all(32767.0f);
    const __m256i pairs =
        _mm256_packs_epi32((__m256i)nearest(least_or(most, x * inverse_)), (__m256i)nearest(least_or(most, y * inverse_)));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_adds_epi16(pairs, zero_points_), 0xd8);
    const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    __m128i codes;
    if constexpr (Code(-1) < Code(0))
      codes = _mm_min_epi8(_mm_max_epi8(_mm_packs_epi16(low, high), lowest_), highest_);
    else
      codes = _mm_min_epu8(_mm_max_epu8(_mm_packus_epi16(low, high), lowest_), highest_);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), codes);
  }

 private:
  Floats inverse_;
  __m256i zero_points_;
  __m128i lowest_, highest_;
};
#endif

// The first `lanes` low bytes of a vector.
inline void store_low_bytes(void* to, Ints x, int64_t lanes) {
  if (lanes >= kFloats) return store_low_bytes(to, x);
#ifdef __AVX512F__
  _mm512_mask_cvtepi32_storeu_epi8(to, static_cast<__mmask16>((1 << lanes) - 1), (__m512i)x);
#else
  int8_t each[kFloats];
  store_low_bytes(each, x);
  __builtin_memcpy(to, each, static_cast<size_t>(lanes));
#endif
}

template <class Code>
constexpr float lowest_of = Code(-1) < Code(0) ? -128.0f : 0.0f;

template <class Code>
inline Ints encoded(Floats x, const Affine& q) {
  return encoded(x, q, lowest_of<Code>, lowest_of<Code> + 255.0f);
}

inline float decoded(float code, const Affine& q) { return (code - q.zero_point) * q.scale; }

template <class Code>
void load_codes(float* to, const Code* from, const Affine& q, int64_t stride, int64_t count) {
  if (stride == 1) {
    int64_t i = 0;
    for (; i + kFloats <= count; i += kFloats)
      store<kFloats>(to + i, (__builtin_convertvector(widened(from + i), Floats) - q.zero_point) * q.scale);
    for (; i < count; i++) to[i] = decoded(from[i], q);
  } else if (stride == 0) {
    const float value = decoded(from[0], q);
#pragma omp simd
    for (int64_t i = 0; i < count; i++) to[i] = value;
  } else {
    for (int64_t i = 0; i < count; i++) to[i] = decoded(from[i * stride], q);
  }
}

template <class Code>
void store_codes(Code* to, const float* from, const Affine& q, int64_t stride, int64_t count) {
  int64_t i = 0;
  if (stride == 1)
    for (; i + kFloats <= count; i += kFloats) store_low_bytes(to + i, encoded<Code>(load<kFloats>(from + i), q));
  for (; i < count; i += kFloats) {
    const int64_t some = least(kFloats, count - i);
    float rest[kFloats] = {};
    for (int64_t j = 0; j < some; j++) rest[j] = from[i + j];
    Code codes[kFloats];
    store_low_bytes(codes, encoded<Code>(load<kFloats>(rest), q));
    for (int64_t j = 0; j < some; j++) to[(i + j) * stride] = codes[j];
  }
}

// Codes as plain numbers.
template <int W, class Code>
inline Vector<float, W> load_plain(const Code* from) {
  if constexpr (W == kFloats) {
    return __builtin_convertvector(widened(from), Floats);
  } else {
    return __builtin_convertvector(load_raw<W>(from), Vector<float, W>);
  }
}
template <int W>
inline Vector<float, W> load(const uint8_t* from) {
  return load_plain<W>(from);
}
template <int W>
inline Vector<float, W> load(const int8_t* from) {
  return load_plain<W>(from);
}
inline float load_one(const uint8_t* from) { return *from; }
inline float load_one(const int8_t* from) { return *from; }

// A vector of numbers, by whatever the output is.
template <class T>
inline void store_as(T* to, const Floats& x, [[maybe_unused]] const Affine& q) {
  if constexpr (sizeof(T) == 1) {
    store_low_bytes(to, encoded<T>(x, q));
  } else {
    store<kFloats>(to, x);
  }
}

inline void load(float* to, const void* from, DType dtype, const Affine& q, int64_t stride, int64_t count) {
  if (dtype == DType::u8)
    load_codes(to, static_cast<const uint8_t*>(from), q, stride, count);
  else if (dtype == DType::s8)
    load_codes(to, static_cast<const int8_t*>(from), q, stride, count);
  else
    load(to, from, dtype, stride, count);
}

inline void store(void* to, const float* from, DType dtype, const Affine& q, int64_t stride, int64_t count) {
  if (dtype == DType::u8)
    store_codes(static_cast<uint8_t*>(to), from, q, stride, count);
  else if (dtype == DType::s8)
    store_codes(static_cast<int8_t*>(to), from, q, stride, count);
  else
    store(to, from, dtype, stride, count);
}

}  // namespace drystone::DRYSTONE_ISA
