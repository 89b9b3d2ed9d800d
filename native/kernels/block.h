// Moving short runs of elements between memory (f32 or bf16, any stride) and contiguous float32 buffers in L1.
#pragma once

#include "core/dtype.h"
#include "kernels/math.h"

namespace drystone::DRYSTONE_ISA {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One of indices that are int64 where wide, else int32.
inline int64_t index_at(const void* indices, bool wide, int64_t at) {
  return wide ? static_cast<const int64_t*>(indices)[at] : static_cast<const int32_t*>(indices)[at];
}

// A bfloat16, for templates that take integers too.
struct Brief {
  uint16_t bits;
};

// What is computed with in the place of an element.
inline float number(Brief x) { return from_bf16(x.bits); }
template <class T>
inline T number(T x) {
  return x;
}

// The address so many elements on.
inline const void* advance(const void* data, int64_t elements, DType dtype) {
  return static_cast<const char*>(data) + elements * size_of(dtype);
}
inline void* advance(void* data, int64_t elements, DType dtype) { return static_cast<char*>(data) + elements * size_of(dtype); }

inline void load(float* to, const void* from, DType dtype, int64_t stride, int64_t count) {
  if (dtype == DType::bf16) {
    const auto* x = static_cast<const uint16_t*>(from);
    if (stride == 1) {
#pragma omp simd
      for (int64_t i = 0; i < count; i++) to[i] = from_bf16(x[i]);
    } else if (stride == 0) {
      const float value = from_bf16(x[0]);
#pragma omp simd
      for (int64_t i = 0; i < count; i++) to[i] = value;
    } else {
      for (int64_t i = 0; i < count; i++) to[i] = from_bf16(x[i * stride]);
    }
  } else {
    const auto* x = static_cast<const float*>(from);
    if (stride == 1) {
#pragma omp simd
      for (int64_t i = 0; i < count; i++) to[i] = x[i];
    } else if (stride == 0) {
      const float value = x[0];
#pragma omp simd
      for (int64_t i = 0; i < count; i++) to[i] = value;
    } else {
      for (int64_t i = 0; i < count; i++) to[i] = x[i * stride];
    }
  }
}

inline void store(void* to, const float* from, DType dtype, int64_t stride, int64_t count) {
  if (dtype == DType::bf16) {
    auto* y = static_cast<uint16_t*>(to);
    if (stride == 1) {
#pragma omp simd
      for (int64_t i = 0; i < count; i++) y[i] = to_bf16(from[i]);
    } else {
      for (int64_t i = 0; i < count; i++) y[i * stride] = to_bf16(from[i]);
    }
  } else {
    auto* y = static_cast<float*>(to);
    if (stride == 1) {
#pragma omp simd
      for (int64_t i = 0; i < count; i++) y[i] = from[i];
    } else {
      for (int64_t i = 0; i < count; i++) y[i * stride] = from[i];
    }
  }
}

// Part `index` of `parts` nearly equal ones of [0, total).
struct Range {
  int64_t begin, end;
};
inline Range share(int64_t total, int64_t index, int64_t parts) {
  const int64_t size = total / parts, rest = total % parts;
  const int64_t begin = index * size + least(index, rest);
  return {begin, begin + size + (index < rest)};
}

}  // namespace drystone::DRYSTONE_ISA
