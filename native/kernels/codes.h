// Moving short runs of elements as block.h does, where memory may also hold codes of 8 bits (core/quantisation.h).
#pragma once

#include "core/quantisation.h"
#include "kernels/block.h"
#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

inline float decoded(float code, const Affine& q) { return (code - q.zero_point) * q.scale; }

// As a number that is a code of the dtype whose lowest one is `lowest`.
inline float encoded(float x, const Affine& q, float lowest) {
  const float nearest = __builtin_rintf(x * q.inverse) + q.zero_point;
  const float kept = nearest < lowest ? lowest : nearest > lowest + 255.0f ? lowest + 255.0f : nearest;
  return kept == kept ? kept : 0.0f;
}

template <class Code>
constexpr float lowest_of = Code(-1) < Code(0) ? -128.0f : 0.0f;

template <class Code>
inline Code code_of(float x, const Affine& q) {
  return static_cast<Code>(static_cast<int32_t>(encoded(x, q, lowest_of<Code>)));
}

template <class Code>
void load_codes(float* to, const Code* from, const Affine& q, int64_t stride, int64_t count) {
  if (stride == 1) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) to[i] = decoded(from[i], q);
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
  if (stride == 1) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) to[i] = code_of<Code>(from[i], q);
  } else {
    for (int64_t i = 0; i < count; i++) to[i * stride] = code_of<Code>(from[i], q);
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
