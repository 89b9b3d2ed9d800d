// What attention multiplies with: operands packed into panels, and tiles of accumulators in registers.
//
// A panel holds kPanel columns (two vectors), all of column 0 … kPanel - 1 at depth 0, then at depth 1, and so on. A unit of depth is
// a float32, or a pair of neighbouring bfloat16 where the CPU multiplies those (VDPBF16PS); packing widens bfloat16 otherwise.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "kernels/block.h"
#include "kernels/transpose.h"

namespace drystone::DRYSTONE_ISA {

constexpr int kPanel = 2 * kFloats;
// Rows of a tile: with two vectors of columns, the accumulators fill half of the registers of AVX-512, and 12 of 16 of AVX2.
#ifdef __AVX512F__
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 6;
#endif

// c (R rows, C vectors of columns) = a (R, depth) times a panel, plus c with row r times factors[r] where there are factors.
template <int R, int C>
void multiply_tile(const float* a, int64_t a_stride, const float* panel, int64_t depth, float* c, int64_t c_stride, const float* factors) {
  Vector<float, kFloats> sums[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int j = 0; j < C; j++)
      sums[r][j] = factors ? load<kFloats>(c + r * c_stride + j * kFloats) * factors[r] : Vector<float, kFloats>{};
  for (int64_t d = 0; d < depth; d++) {
    Vector<float, kFloats> b[C];
#pragma GCC unroll 2
    for (int j = 0; j < C; j++) b[j] = load<kFloats>(panel + d * kPanel + j * kFloats);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int j = 0; j < C; j++) sums[r][j] += a[r * a_stride + d] * b[j];
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int j = 0; j < C; j++) store_raw(c + r * c_stride + j * kFloats, sums[r][j]);
}

#ifdef __AVX512F__
// The same on pairs of bfloat16.
template <int R, int C>
[[gnu::target("avx512bf16")]] void multiply_tile(const uint32_t* a, int64_t a_stride, const uint32_t* panel, int64_t depth, float* c,
                                                 int64_t c_stride, const float* factors) {
  __m512 sums[R][C];
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int j = 0; j < C; j++) sums[r][j] = factors ? _mm512_loadu_ps(c + r * c_stride + j * kFloats) * factors[r] : _mm512_setzero_ps();
  for (int64_t d = 0; d < depth; d++) {
    __m512bh b[C];
#pragma GCC unroll 2
    for (int j = 0; j < C; j++) b[j] = (__m512bh)_mm512_loadu_si512(panel + d * kPanel + j * kFloats);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * a_stride + d]));
#pragma GCC unroll 2
      for (int j = 0; j < C; j++) sums[r][j] = _mm512_dpbf16_ps(sums[r][j], pair, b[j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int j = 0; j < C; j++) _mm512_storeu_ps(c + r * c_stride + j * kFloats, sums[r][j]);
}
#endif

template <class Unit>
constexpr int64_t kElements = 1;  // in a unit
template <>
inline constexpr int64_t kElements<uint32_t> = 2;

// Unit `index` of a row of `size` elements.
inline float unit(const float* row, int64_t index, int64_t, float*) { return row[index]; }
inline float unit(const uint16_t* row, int64_t index, int64_t, float*) { return from_bf16(row[index]); }
inline uint32_t unit(const uint16_t* row, int64_t index, int64_t size, uint32_t*) {
  const uint32_t second = 2 * index + 1 < size ? row[2 * index + 1] : 0;
  return row[2 * index] | second << 16;
}

// A row of `size` elements as units.
inline void pack_row(float* to, const float* row, int64_t size) { load(to, row, false, 1, size); }
inline void pack_row(float* to, const uint16_t* row, int64_t size) { load(to, row, true, 1, size); }
inline void pack_row(uint32_t* to, const uint16_t* row, int64_t size) {
  to[(size - 1) / 2] = 0;
  __builtin_memcpy(to, row, size * sizeof *row);
}

// A square of units, transposed.
template <class In>
inline void unit_tile(const In* in, int64_t in_stride, float* out) {
  transpose_tile<kFloats>(in, out, in_stride, kPanel);
}
inline void unit_tile(const uint16_t* in, int64_t in_stride, uint32_t* out) {
  Vector<uint32_t, kFloats> rows[kFloats];
#pragma GCC unroll 16
  for (int i = 0; i < kFloats; i++) __builtin_memcpy(&rows[i], in + i * in_stride, sizeof rows[i]);
  if constexpr (kFloats > 8) exchange_round<8, kFloats>(rows);
  exchange_round<4, kFloats>(rows);
  exchange_round<2, kFloats>(rows);
  exchange_round<1, kFloats>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kFloats; i++) store_raw(out + i * kPanel, rows[i]);
}

// Rows of keys (count, size) become the columns of panels, whose depth is the size in units; columns that are left over become 0.
template <class In, class Unit>
inline void pack_keys(Unit* panels, const In* keys, int64_t stride, int64_t count, int64_t size) {
  const int64_t depth = ceil_div(size, kElements<Unit>), whole = size / kElements<Unit> / kFloats * kFloats;
  for (int64_t first = 0; first < count; first += kFloats) {
    Unit* out = panels + first / kPanel * depth * kPanel + first % kPanel;
    const In* in = keys + first * stride;
    const int64_t columns = least(kFloats, count - first);
    int64_t d = 0;
    if (columns == kFloats)
      for (; d < whole; d += kFloats) unit_tile(in + d * kElements<Unit>, stride, out + d * kPanel);
    for (; d < depth; d++)
      for (int64_t j = 0; j < kFloats; j++)
        out[d * kPanel + j] = j < columns ? unit(in + j * stride, d, size, static_cast<Unit*>(nullptr)) : Unit{};
  }
  if (count % kPanel != 0 && count % kPanel <= kFloats)  // the other vector of the last panel
    for (int64_t d = 0; d < depth; d++)
      for (int64_t j = kFloats; j < kPanel; j++) panels[(count / kPanel * depth + d) * kPanel + j] = Unit{};
}

// Rows of values (count, size) become the depth of panels, whose columns are the size; columns that are left over become 0.
template <class In>
inline void pack_values(float* panels, const In* values, int64_t stride, int64_t count, int64_t size) {
  for (int64_t column = 0; column < size; column += kFloats) {
    float* out = panels + column / kPanel * count * kPanel + column % kPanel;
    const In* in = values + column;
    const int64_t columns = least(kFloats, size - column);
    for (int64_t k = 0; k < count; k++) {
      if (columns == kFloats)
        store_raw(out + k * kPanel, load<kFloats>(in + k * stride));
      else
        for (int64_t j = 0; j < kFloats; j++) out[k * kPanel + j] = j < columns ? load_one(in + k * stride + j) : 0.0f;
    }
  }
}
inline void pack_values(uint32_t* panels, const uint16_t* values, int64_t stride, int64_t count, int64_t size) {
  using Wide = Vector<uint32_t, kFloats>;
  const int64_t depth = ceil_div(count, 2);
  for (int64_t column = 0; column < size; column += kFloats) {
    uint32_t* out = panels + column / kPanel * depth * kPanel + column % kPanel;
    const int64_t columns = least(kFloats, size - column);
    for (int64_t k = 0; k < count; k += 2) {
      const uint16_t* first = values + k * stride + column;
      const uint16_t* second = k + 1 < count ? first + stride : nullptr;
      if (columns == kFloats && second) {
        const Wide low = __builtin_convertvector(load_raw<kFloats>(first), Wide);
        store_raw(out + k / 2 * kPanel, low | __builtin_convertvector(load_raw<kFloats>(second), Wide) << 16);
      } else {
        for (int64_t j = 0; j < kFloats; j++)
          out[k / 2 * kPanel + j] = j < columns ? first[j] | (second ? static_cast<uint32_t>(second[j]) << 16 : 0) : 0;
      }
    }
  }
}

// For a single row, which packing would cost more than it computes: the products of `query` with keys where they lie.
inline void multiply_keys(float* scores, const float* query, const float* keys, int64_t stride, int64_t count, int64_t size) {
  for (int64_t k = 0; k < count; k++) {
    const float* key = keys + k * stride;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < size; d++) sum += query[d] * key[d];
    scores[k] = sum;
  }
}

// output = factor * output + weights times values where they lie.
inline void add_values(float* output, float factor, const float* weights, const float* values, int64_t stride, int64_t count,
                       int64_t size) {
  constexpr int64_t vectors = 4, run = vectors * kFloats;
  int64_t first = 0;
  for (; first + run <= size; first += run) {
    Vector<float, kFloats> sums[vectors];
#pragma GCC unroll 4
    for (int64_t j = 0; j < vectors; j++) sums[j] = load<kFloats>(output + first + j * kFloats) * factor;
    for (int64_t k = 0; k < count; k++)
#pragma GCC unroll 4
      for (int64_t j = 0; j < vectors; j++) sums[j] += weights[k] * load<kFloats>(values + k * stride + first + j * kFloats);
#pragma GCC unroll 4
    for (int64_t j = 0; j < vectors; j++) store_raw(output + first + j * kFloats, sums[j]);
  }
  if (first == size) return;
#pragma omp simd
  for (int64_t d = first; d < size; d++) output[d] *= factor;
  for (int64_t k = 0; k < count; k++)
#pragma omp simd
    for (int64_t d = first; d < size; d++) output[d] += weights[k] * values[k * stride + d];
}

}  // namespace drystone::DRYSTONE_ISA
