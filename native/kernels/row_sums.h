// Sums and maxima of rows of float32, bfloat16 or float16 that lie anywhere, in float32.
//
// Rows come in small groups whose addresses are known some rows in advance, so that they are on their way when they are needed. Of
// a group, as many columns as registers hold are added up at a time.
#pragma once

#include "kernels/block.h"
#include "kernels/streams.h"

namespace drystone::DRYSTONE_ISA {

struct Half {
  uint16_t bits;
};

#ifdef __AVX512F__
inline Vector<float, 16> load_floats(const Half* from) {
  return (Vector<float, 16>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline void store_floats(Half* to, const Vector<float, 16>& v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
// Written out, as the compiler widens the halves of a vector one by one.
inline Vector<float, 16> load_floats(const uint16_t* from) {
  return (Vector<float, 16>)_mm512_maskz_slli_epi32(
      0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16);
}
#else
inline Vector<float, 8> load_floats(const Half* from) {
  return (Vector<float, 8>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline void store_floats(Half* to, const Vector<float, 8>& v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#endif
template <class T>
inline Vector<float, kFloats> load_floats(const T* from) {
  return load<kFloats>(from);
}
template <class T>
inline void store_floats(T* to, const Vector<float, kFloats>& v) {
  store<kFloats>(to, v);
}
inline float load_one(const Half* from) { return _cvtsh_ss(from->bits); }
inline void store_one(Half* to, float value) { to->bits = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }

constexpr int rows_in_group = 8;
constexpr int64_t most_fetched = 2048;  // bytes of a row; the processor goes on by itself

inline void prefetch_row(const void* row, int64_t bytes) {
  for (int64_t line = 0; line < least(bytes, most_fetched); line += kLine) __builtin_prefetch(static_cast<const char*>(row) + line);
}

// A group: rows at `rows`, and what they are multiplied by where Weighted.
template <class T>
struct Group {
  const T* rows[rows_in_group];
  float weights[rows_in_group];
  int count = 0;
};

template <int K, bool Weighted, class T>
inline void add_columns(float* sums, const Group<T>& group, int64_t column) {
  Vector<float, kFloats> sum[K];
  for (int k = 0; k < K; k++) sum[k] = load_raw<kFloats>(sums + column + k * kFloats);
  for (int r = 0; r < group.count; r++) {
    const T* row = group.rows[r] + column;
    for (int k = 0; k < K; k++) {
      if constexpr (Weighted) {
        sum[k] += group.weights[r] * load_floats(row + k * kFloats);
      } else {
        sum[k] += load_floats(row + k * kFloats);
      }
    }
  }
  for (int k = 0; k < K; k++) store_raw(sums + column + k * kFloats, sum[k]);
}

// sums += the group's rows.
template <bool Weighted, class T>
inline void add_rows(float* sums, const Group<T>& group, int64_t width) {
  int64_t column = 0;
  for (; column + 8 * kFloats <= width; column += 8 * kFloats) add_columns<8, Weighted>(sums, group, column);
  for (; column + 2 * kFloats <= width; column += 2 * kFloats) add_columns<2, Weighted>(sums, group, column);
  for (; column + kFloats <= width; column += kFloats) add_columns<1, Weighted>(sums, group, column);
  for (; column < width; column++)
    for (int r = 0; r < group.count; r++) {
      const float value = load_one(group.rows[r] + column);
      sums[column] = Weighted ? fma(group.weights[r], value, sums[column]) : sums[column] + value;
    }
}

template <class T>
inline void store_row(T* to, const float* from, int64_t width) {
  int64_t column = 0;
  for (; column + kFloats <= width; column += kFloats) store_floats(to + column, load_raw<kFloats>(from + column));
  for (; column < width; column++) store_one(to + column, from[column]);
}

inline void fill_row(float* to, float value, int64_t width) {
#pragma omp simd
  for (int64_t column = 0; column < width; column++) to[column] = value;
}

}  // namespace drystone::DRYSTONE_ISA
