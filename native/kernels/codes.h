// Moving short runs of elements as block.h does, where memory may also hold codes of 8 bits (core/quantisation.h).
#pragma once

#include "core/quantisation.h"
#include "kernels/block.h"
#include "kernels/vector_math.h"

namespace drystone::DRYSTONE_ISA {

using Ints = Vector<int32_t, kFloats>;

// The nearest codes, in the low bytes. What is no number becomes an integer whose low byte is 0.
inline Ints encoded(Floats x, const Affine& q, float lowest) {
  const Floats nearest = rounded(x * q.inverse) + q.zero_point;
  const Floats kept = least_or(all(lowest + 255.0f), most_or(all(lowest), nearest));
#ifdef __AVX512F__
  return (Ints)_mm512_cvtps_epi32((__m512)kept);
#else
  return (Ints)_mm256_cvtps_epi32((__m256)kept);
#endif
}

template <class Code>
constexpr float lowest_of = Code(-1) < Code(0) ? -128.0f : 0.0f;

inline float decoded(float code, const Affine& q) { return (code - q.zero_point) * q.scale; }

template <class Code>
void load_codes(float* to, const Code* from, const Affine& q, int64_t stride, int64_t count) {
  if (stride == 1) {
    int64_t i = 0;
    for (; i + kFloats <= count; i += kFloats)
      store<kFloats>(to + i, (__builtin_convertvector(load_raw<kFloats>(from + i), Floats) - q.zero_point) * q.scale);
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
  using Codes = Vector<Code, kFloats>;
  int64_t i = 0;
  if (stride == 1)
    for (; i + kFloats <= count; i += kFloats)
      store_raw(to + i, __builtin_convertvector(encoded(load<kFloats>(from + i), q, lowest_of<Code>), Codes));
  for (; i < count; i += kFloats) {
    const int64_t some = least(kFloats, count - i);
    float rest[kFloats] = {};
    for (int64_t j = 0; j < some; j++) rest[j] = from[i + j];
    const Codes codes = __builtin_convertvector(encoded(load<kFloats>(rest), q, lowest_of<Code>), Codes);
    for (int64_t j = 0; j < some; j++) to[(i + j) * stride] = codes[j];
  }
}

// Codes as plain numbers.
template <int W>
inline Vector<float, W> load(const uint8_t* from) {
  return __builtin_convertvector(load_raw<W>(from), Vector<float, W>);
}
template <int W>
inline Vector<float, W> load(const int8_t* from) {
  return __builtin_convertvector(load_raw<W>(from), Vector<float, W>);
}
inline float load_one(const uint8_t* from) { return *from; }
inline float load_one(const int8_t* from) { return *from; }

// A vector of numbers, by whatever the output is.
template <class T>
inline void store_as(T* to, const Floats& x, [[maybe_unused]] const Affine& q) {
  if constexpr (sizeof(T) == 1) {
    store_raw(to, __builtin_convertvector(encoded(x, q, lowest_of<T>), Vector<T, kFloats>));
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
