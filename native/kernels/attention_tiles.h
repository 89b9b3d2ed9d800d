// What attention multiplies with: operands packed into panels, and tiles of accumulators in registers.
//
// A panel holds kPanel columns (two vectors), all of column 0 … kPanel - 1 at depth 0, then at depth 1, and so on. A unit of depth is
// a float32, or a pair of neighbouring bfloat16 where the CPU multiplies those (VDPBF16PS); packing widens bfloat16 otherwise.
#pragma once

#include "kernels/block.h"
#include "kernels/transpose.h"
#include "kernels/vector_math.h"

#ifdef __AVX512F__
// From here on, so for the templates that multiply pairs, but not for what the headers above share with other sources. Only intrinsics
// give instructions of it, and only steps/attention.cpp's word that the CPU has them leads there.
#pragma GCC target("avx512bf16")
#endif

namespace drystone::DRYSTONE_ISA {

constexpr int kPanel = 2 * kFloats;
// Rows of a tile: with two vectors of columns, the accumulators fill half of the registers of AVX-512, and 12 of 16 of AVX2.
#ifdef __AVX512F__
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 6;
#endif

constexpr int64_t kRun = 8;

template <int R, int C>
inline void load_tile(Floats (&sums)[R][C], const float* c, int64_t c_stride) {
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) sums[r][j] = load<kFloats>(c + r * c_stride + j * kFloats);
}

template <int R, int C>
inline void store_tile(const Floats (&sums)[R][C], float* c, int64_t c_stride) {
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) store_raw(c + r * c_stride + j * kFloats, sums[r][j]);
}

// int8 are widened as they are loaded. (The compiler's own conversion takes them one by one.)
inline Floats load_columns(const int8_t* from) {
#ifdef __AVX512F__
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#endif
}
inline Floats load_columns(const float* from) { return load<kFloats>(from); }

// The left operand of a tile, in chunks of kChunk units of depth: all rows' first ones, their second ones …, the rows of a chunk RowStep
// apart, chunks ChunkStep. Steps known beforehand take no registers.
constexpr int64_t kChunk = 16;

template <class Unit, int RowStep, int ChunkStep>
struct Left {
  const Unit* data;
  inline const Unit* from(int64_t d) const { return data + d / kChunk * ChunkStep + d % kChunk; }
  static constexpr int row_step = RowStep;
};

// The right operand of a tile: kFloats columns from vector j on, at a depth.
template <class Unit>
struct Panel {
  const Unit* data;
  inline const Unit* at(int64_t d, int j) const { return data + d * kPanel + j * kFloats; }
};

// c (R rows, C vectors of columns) = a (R, depth) times b, or that added to c. `meanwhile` is called after every eighth unit of
// depth: what it does has execution units of its own while the products keep theirs busy.
template <int R, int C, bool Adds, int RowStep, int ChunkStep, class Right, class Meanwhile>
inline void multiply_tile(Left<float, RowStep, ChunkStep> a, Right right, int64_t depth, float* c, int64_t c_stride, Meanwhile meanwhile) {
  Floats sums[R][C] = {};
  if constexpr (Adds) load_tile<R, C>(sums, c, c_stride);
  const auto at = [&](const float* left, int64_t d) __attribute__((always_inline)) {
    Floats b[C];
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) b[j] = load_columns(right.at(d, j));
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const Floats value = all(left[r * RowStep]);
#pragma GCC unroll 8
      for (int j = 0; j < C; j++) multiply_add(sums[r][j], value, b[j]);
    }
  };
  int64_t d = 0;
  for (; d + kRun <= depth; d += kRun) {
    const auto* left = a.from(d);
#pragma GCC unroll 8
    for (int i = 0; i < kRun; i++) at(left + i, d + i);
    meanwhile();
  }
  if (d < depth) {
    for (const auto* left = a.from(d); d < depth; d++, left++) at(left, d);
    meanwhile();
  }
  store_tile<R, C>(sums, c, c_stride);
}

#ifdef __AVX512F__
// The same on pairs of bfloat16.
template <int R, int C, bool Adds, int RowStep, int ChunkStep, class Right, class Meanwhile>
inline void multiply_tile(Left<uint32_t, RowStep, ChunkStep> a, Right right, int64_t depth, float* c, int64_t c_stride,
                          Meanwhile meanwhile) {
  Floats sums[R][C] = {};
  if constexpr (Adds) load_tile<R, C>(sums, c, c_stride);
  for (int64_t d = 0; d < depth;) {
    const auto* left = a.from(d);
    for (const int64_t end = least(depth, d + kRun); d < end; d++, left++) {
      __m512bh b[C];
#pragma GCC unroll 8
      for (int j = 0; j < C; j++) b[j] = (__m512bh)_mm512_loadu_si512(right.at(d, j));
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(left[r * RowStep]));
#pragma GCC unroll 8
        for (int j = 0; j < C; j++) sums[r][j] = (Floats)_mm512_dpbf16_ps((__m512)sums[r][j], pair, b[j]);
      }
    }
    meanwhile();
  }
  store_tile<R, C>(sums, c, c_stride);
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

// One of the rows of a tile (its left operand), of `size` elements: chunks of units, kTileRows chunks apart.
template <class In, class Unit>
inline void pack_row(Unit* to, const In* row, int64_t size) {
  const int64_t depth = ceil_div(size, kElements<Unit>), whole = size / kElements<Unit>;
  for (int64_t first = 0; first < depth; first += kChunk, to += kTileRows * kChunk) {
    if (first + kChunk <= whole) {
      if constexpr (sizeof(In) * kElements<Unit> == sizeof(Unit))
        __builtin_memcpy(to, row + first * kElements<Unit>, kChunk * sizeof(Unit));
      else
        load(to, row + first, DType::bf16, 1, kChunk);
      continue;
    }
    for (int64_t d = 0; d < kChunk; d++) to[d] = first + d < depth ? unit(row, first + d, size, static_cast<Unit*>(nullptr)) : Unit{};
  }
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
#ifdef __AVX512F__
// 32 columns of two rows, as pairs.
template <int... I>
inline void store_pairs(uint32_t* to, const uint16_t* first, const uint16_t* second, Indices<I...>) {
  const auto a = load_raw<kPanel>(first), b = load_raw<kPanel>(second);
  store_raw(to, __builtin_shufflevector(a, b, (I % 2 * kPanel + I / 2)...));
  store_raw(to + kFloats, __builtin_shufflevector(a, b, (I % 2 * kPanel + I / 2 + kFloats)...));
}
template <int Columns = kPanel>
inline void store_pairs(uint32_t* to, const uint16_t* first, const uint16_t* second) {
  store_pairs(to, first, second, Indices<__integer_pack(Columns)...>());
}

inline void pack_values(uint32_t* panels, const uint16_t* values, int64_t stride, int64_t count, int64_t size) {
  const int64_t depth = ceil_div(count, 2);
  for (int64_t column = 0; column < size; column += kPanel) {
    uint32_t* out = panels + column * depth;
    const int64_t columns = least(kPanel, size - column);
    for (int64_t k = 0; k < count; k += 2, out += kPanel) {
      const uint16_t* first = values + k * stride + column;
      const uint16_t* second = k + 1 < count ? first + stride : nullptr;
      if (columns == kPanel && second) {
        store_pairs(out, first, second);
        continue;
      }
      for (int64_t j = 0; j < kPanel; j++) out[j] = j < columns ? first[j] | (second ? static_cast<uint32_t>(second[j]) << 16 : 0) : 0;
    }
  }
}
#endif

// A row of results, multiplied by factor.
template <class Unit>
inline void store_row(void* to, float* row, float factor, DType dtype, int64_t size) {
  int64_t i = 0;
  for (; i + kFloats <= size; i += kFloats) {
    const Floats result = load<kFloats>(row + i) * factor;
#ifdef __AVX512F__
    if constexpr (kElements<Unit> == 2) {
      const __m256bh rounded = _mm512_cvtneps_pbh((__m512)result);
      __builtin_memcpy(static_cast<uint16_t*>(to) + i, &rounded, sizeof rounded);
      continue;
    }
#endif
    if (dtype == DType::bf16)
      store<kFloats>(static_cast<uint16_t*>(to) + i, result);
    else
      store<kFloats>(static_cast<float*>(to) + i, result);
  }
  if (i == size) return;
  for (int64_t j = i; j < size; j++) row[j] *= factor;
  store(advance(to, i, dtype), row + i, dtype, 1, size - i);
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

// output += weights times values where they lie.
inline void add_values(float* output, const float* weights, const float* values, int64_t stride, int64_t count, int64_t size) {
  constexpr int64_t vectors = 4, run = vectors * kFloats;
  int64_t first = 0;
  for (; first + run <= size; first += run) {
    Vector<float, kFloats> sums[vectors];
#pragma GCC unroll 4
    for (int64_t j = 0; j < vectors; j++) sums[j] = load<kFloats>(output + first + j * kFloats);
    for (int64_t k = 0; k < count; k++)
#pragma GCC unroll 4
      for (int64_t j = 0; j < vectors; j++) sums[j] += weights[k] * load<kFloats>(values + k * stride + first + j * kFloats);
#pragma GCC unroll 4
    for (int64_t j = 0; j < vectors; j++) store_raw(output + first + j * kFloats, sums[j]);
  }
  if (first == size) return;
  for (int64_t k = 0; k < count; k++)
#pragma omp simd
    for (int64_t d = first; d < size; d++) output[d] += weights[k] * values[k * stride + d];
}

}  // namespace drystone::DRYSTONE_ISA
