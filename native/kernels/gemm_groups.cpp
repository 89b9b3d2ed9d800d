// Products with weights in 4 or 8 bits, whose groups along k share a scale.
//
// A vector of words is as many columns as floats, so a code becomes a float where it lies: shifted, masked, converted (with AVX-512
// 4 bits are looked up instead), scaled. For a few rows it is not even shifted, and scaled with all of its group.
// Weights are scaled before they are multiplied, so NaN, infinities and large numbers come out as of the same weights in float32.
#include "kernels/gemm_groups.h"

#include <immintrin.h>

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;
using Words = Vector<uint32_t, W>;

// Code i of each word as a float, less what can be taken off it for nothing.
template <int Bits>
struct Code;

template <>
struct Code<8> {
  static constexpr float zero = 128, less = 0;
  static inline Floats at(const Words& words, int i) { return __builtin_convertvector((Vector<int32_t, W>)(words >> 8 * i & 255), Floats); }
};

template <>
struct Code<4> {
#ifdef __AVX512F__
  static constexpr float zero = 8, less = 8;
  static inline Floats at(const Words& words, int i) {
    const Floats table = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    return (Floats)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)(words >> group_bit(4, i)), (__m512)table);
  }
#else
  static constexpr float zero = 8, less = 0;
  static inline Floats at(const Words& words, int i) {
    return __builtin_convertvector((Vector<int32_t, W>)(words >> group_bit(4, i) & 15), Floats);
  }
#endif
};

// What a group's columns have in common: weight = scale * Code::at() + offset.
template <int Bits, int Vectors>
struct Scales {
  Floats scale[Vectors], offset[Vectors];

  __attribute__((always_inline)) inline void read(const Groups& kind, const char* group) {
    const int64_t apart = Vectors * W * size_of(kind.dtype);
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      scale[v] = numbers_of(kind, group, v);
      offset[v] =
          kind.minima ? numbers_of(kind, group + apart, v) + scale[v] * Code<Bits>::less : scale[v] * (Code<Bits>::less - Code<Bits>::zero);
    }
  }
};

// How many rows are multiplied by codes in place: sums of a group and of all groups are in registers.
constexpr int kInPlaceRows = kTile.vectors == 3 ? 4 : 2;

// Sums of codes without a sign lose digits when zero() is taken off them: more, the longer the group, and the larger zero() is.
constexpr float kInPlaceSum = 4096;

// Groups that [begin, end) of k has a part in.
inline int64_t group_count(const Groups& kind, int64_t begin, int64_t end) { return ceil_div(end, kind.group) - begin / kind.group; }

// `word(address, scales, k)` for each word [begin, end) of k in a strip, group by group.
template <int Bits, int Vectors, class Work>
__attribute__((always_inline)) inline void each_word(const Groups& kind, const char* strip, int64_t begin, int64_t end, Work work) {
  constexpr int64_t unit = 32 / Bits, word_bytes = Vectors * W * 4;
  const int64_t header = Vectors * W * kind.header_bytes();
  for (int64_t index = begin / kind.group; index * kind.group < end; index++) {
    const char* group = group_at(kind, strip, Vectors, index);
    Scales<Bits, Vectors> scales;
    scales.read(kind, group);
    const int64_t first = index * kind.group;
    const int64_t from = larger(begin, first), to = least(end, first + kind.group);
    const char* words = group + header + (from - first) / unit * word_bytes;
    for (int64_t k = from; k < to; k += unit, words += word_bytes) work(words, scales, k - begin);
  }
}

template <int Bits, int Rows, int Vectors>
void multiply_groups(const GemmTile& t, const Groups& kind, int64_t begin, int64_t end) {
  constexpr int unit = 32 / Bits;
  // Few rows leave registers for several sums: less rounding, and no wait for the one before.
  constexpr int sets = Rows * Vectors * 2 <= kTile.rows * kTile.vectors ? 2 : 1;
  Floats sums[sets][Rows][Vectors] = {};
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) sums[0][r][v] = load<W>(t.start + r * t.start_stride + v * W);

  each_word<Bits, Vectors>(kind, t.weights, begin, end,
                           [&](const char* words, const Scales<Bits, Vectors>& scales, int64_t k) __attribute__((always_inline)) {
#pragma GCC unroll 4
                             for (int line = 0; line < Vectors * kVectorBytes / 64; line++)
                               __builtin_prefetch(words + kGroupsAhead + line * 64, 0, 2);
                             const char* x = t.x + k / 16 * (Rows * kChunkBytes) + k % 16 * 4;
                             Words word[Vectors];
#pragma GCC unroll 4
                             for (int v = 0; v < Vectors; v++) word[v] = load_raw<W>(reinterpret_cast<const uint32_t*>(words) + v * W);
#pragma GCC unroll 8
                             for (int i = 0; i < unit; i++) {
                               Floats weight[Vectors];
#pragma GCC unroll 4
                               for (int v = 0; v < Vectors; v++)
                                 weight[v] = Code<Bits>::at(word[v], i) * scales.scale[v] + scales.offset[v];
#pragma GCC unroll 16
                               for (int r = 0; r < Rows; r++) {
                                 const float value = *reinterpret_cast<const float*>(x + r * kChunkBytes + i * 4);
#pragma GCC unroll 4
                                 for (int v = 0; v < Vectors; v++) sums[i % sets][r][v] += weight[v] * value;
                               }
                             }
                           });

#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++)
      store<W>(t.sums + r * t.sums_stride + v * W, sets > 1 ? sums[0][r][v] + sums[sets - 1][r][v] : sums[0][r][v]);
}

// The same with x scaled by scale_for_groups(): a code stays at its place in the word, which makes it so many times as large.
template <int Bits, int Rows, int Vectors>
void multiply_in_place(const GemmTile& t, const Groups& kind, int64_t begin, int64_t end, const float* x_sums) {
  constexpr int unit = 32 / Bits, top = 32 - Bits;
  constexpr uint32_t mask = (1u << Bits) - 1;
  constexpr int sets = Rows * Vectors >= 6 ? 1 : Rows * Vectors >= 3 ? 2 : 4;
  const int64_t header = Vectors * W * kind.header_bytes(), apart = Vectors * W * size_of(kind.dtype),
                groups = group_count(kind, begin, end);
  Floats total[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) total[r][v] = load<W>(t.start + r * t.start_stride + v * W);

  for (int64_t index = begin / kind.group, number = 0; number < groups; index++, number++) {
    const char* group = group_at(kind, t.weights, Vectors, index);
    const int64_t first = index * kind.group, from = larger(begin, first), to = least(end, first + kind.group);
    const char* words = group + header + (from - first) / unit * Vectors * kVectorBytes;
    Floats sums[sets][Rows][Vectors] = {};
    for (int64_t k = from; k < to; k += unit, words += Vectors * kVectorBytes) {
#pragma GCC unroll 4
      for (int line = 0; line < Vectors * kVectorBytes / 64; line++) __builtin_prefetch(words + kGroupsAhead + line * 64, 0, 2);
      const char* x = t.x + (k - begin) / 16 * (Rows * kChunkBytes) + (k - begin) % 16 * 4;
#pragma GCC unroll 8
      for (int i = 0; i < unit; i++) {
        Floats weight[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; v++) {
          const Words word = load_raw<W>(reinterpret_cast<const uint32_t*>(words) + v * W);
          const Words code = group_bit(Bits, i) == top ? word >> top : word & mask << group_bit(Bits, i);
          weight[v] = __builtin_convertvector((Vector<int32_t, W>)code, Floats);
        }
#pragma GCC unroll 16
        for (int r = 0; r < Rows; r++) {
          const float value = *reinterpret_cast<const float*>(x + r * kChunkBytes + i * 4);
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; v++) sums[i % sets][r][v] += weight[v] * value;
        }
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      const Floats scale = numbers_of(kind, group, v);
      const Floats offset = kind.minima ? numbers_of(kind, group + apart, v) : scale * -Code<Bits>::zero;
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
        for (int set = 1; set < sets; set++) sums[0][r][v] += sums[set][r][v];
        total[r][v] += scale * sums[0][r][v] + offset * x_sums[r * groups + number];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) store<W>(t.sums + r * t.sums_stride + v * W, total[r][v]);
}

using InPlaceFunction = void (*)(const GemmTile&, const Groups&, int64_t begin, int64_t end, const float* x_sums);

template <int Bits, int Rows = kInPlaceRows, int Vectors = kTile.vectors>
InPlaceFunction tile_in_place(int64_t rows, int64_t vectors) {
  if constexpr (Rows > 1)
    if (rows < Rows) return tile_in_place<Bits, Rows - 1, Vectors>(rows, vectors);
  if constexpr (Vectors > 1)
    if (vectors < Vectors) return tile_in_place<Bits, Rows, Vectors - 1>(rows, vectors);
  return multiply_in_place<Bits, Rows, Vectors>;
}

template <int Bits, int Rows = kTile.rows, int Vectors = kTile.vectors>
GroupsTileFunction tile_of_groups(int64_t rows, int64_t vectors) {
  if constexpr (Rows > 1)
    if (rows < Rows) return tile_of_groups<Bits, Rows - 1, Vectors>(rows, vectors);
  if constexpr (Vectors > 1)
    if (vectors < Vectors) return tile_of_groups<Bits, Rows, Vectors - 1>(rows, vectors);
  return multiply_groups<Bits, Rows, Vectors>;
}

// Two bfloat16 in a float's place, the first in its low half.
inline Words pair_of(const Floats& first, const Floats& second) {
  const auto rounded = [](const Floats& v) {
    const Words bits = (Words)v;
    return (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
  };
  return rounded(first) >> 16 | (rounded(second) & 0xffff0000);
}

template <int Bits, int Vectors>
void decode(const Groups& kind, bool narrow, const char* strip, int64_t begin, int64_t end, char* to) {
  constexpr int unit = 32 / Bits;
  each_word<Bits, Vectors>(kind, strip, begin, end,
                           [&](const char* words, const Scales<Bits, Vectors>& scales, int64_t k) __attribute__((always_inline)) {
#pragma GCC unroll 4
                             for (int v = 0; v < Vectors; v++) {
                               const Words word = load_raw<W>(reinterpret_cast<const uint32_t*>(words) + v * W);
                               Floats weight[unit];
#pragma GCC unroll 8
                               for (int i = 0; i < unit; i++) weight[i] = Code<Bits>::at(word, i) * scales.scale[v] + scales.offset[v];
                               if (narrow) {
#pragma GCC unroll 4
                                 for (int i = 0; i < unit; i += 2)
                                   store_raw(to + ((k + i) / 2 * Vectors + v) * kVectorBytes, pair_of(weight[i], weight[i + 1]));
                               } else {
#pragma GCC unroll 8
                                 for (int i = 0; i < unit; i++) store_raw(to + ((k + i) * Vectors + v) * kVectorBytes, weight[i]);
                               }
                             }
                           });
}

template <int Bits>
void decode(const Groups& kind, bool narrow, const char* strip, int64_t vectors, int64_t begin, int64_t end, char* to) {
  if (vectors == 3 && kTile.vectors == 3) return decode<Bits, kTile.vectors>(kind, narrow, strip, begin, end, to);
  if (vectors == 2) return decode<Bits, 2>(kind, narrow, strip, begin, end, to);
  decode<Bits, 1>(kind, narrow, strip, begin, end, to);
}

}  // namespace

bool scale_for_groups(const Groups& kind, char* x, int64_t rows, int64_t begin, int64_t end, float* x_sums) {
  // Beyond these a product of a scaled x and a code, or of a code in the word, would be infinite or lose digits.
  constexpr float most = 0x1p100f, fewest = 0x1p-60f;
  if (rows > kInPlaceRows || static_cast<float>(kind.group) * kind.zero() > kInPlaceSum) return false;
  const int64_t padded = ceil_div(end - begin, 16) * 16;
  float* numbers = reinterpret_cast<float*>(x);
  float large = 0;
  bool wrong = false;
#pragma omp simd reduction(max : large) reduction(| : wrong)
  for (int64_t i = 0; i < rows * padded; i++) {
    const float size = __builtin_fabsf(numbers[i]);
    large = size > large ? size : large;
    wrong |= !(size <= most);
  }
  if (wrong || large < fewest) return false;

  const int64_t groups = group_count(kind, begin, end);
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t number = 0; number < groups; number++) {
      const int64_t first = (begin / kind.group + number) * kind.group;
      const int64_t from = larger(first, begin) - begin, to = least(first + kind.group, end) - begin;
      float each[16] = {}, sum = 0;
      for (int64_t k = from / 16 * 16; k < to; k += 16) {
        const float* chunk = numbers + (k / 16 * rows + r) * 16;
        if (k >= from && k + 16 <= to) {
#pragma omp simd
          for (int i = 0; i < 16; i++) each[i] += chunk[i];
        } else {
          for (int64_t i = larger(from - k, 0); i < least(to - k, 16); i++) each[i] += chunk[i];
        }
      }
#pragma omp simd reduction(+ : sum)
      for (int i = 0; i < 16; i++) sum += each[i];
      x_sums[r * groups + number] = sum;
    }
  }
  alignas(64) float factors[16];
  for (int i = 0; i < 16; i++) {
    const int bit = group_bit(kind.bits, i % static_cast<int>(kind.unit()));
    factors[i] = bit == 32 - kind.bits ? 1.0f : 1.0f / static_cast<float>(1u << bit);
  }
  for (int64_t i = 0; i < rows * padded; i += 16)
#pragma omp simd
    for (int j = 0; j < 16; j++) numbers[i + j] *= factors[j];
  return true;
}

void multiply_scaled(const GemmTile& t, int64_t vectors, const Groups& kind, int64_t begin, int64_t end, const float* x_sums) {
  const InPlaceFunction function = kind.bits == 4 ? tile_in_place<4>(t.rows, vectors) : tile_in_place<8>(t.rows, vectors);
  function(t, kind, begin, end, x_sums);
}

GroupsTileFunction groups_tile(const Groups& kind, int64_t rows, int64_t vectors) {
  return kind.bits == 4 ? tile_of_groups<4>(rows, vectors) : tile_of_groups<8>(rows, vectors);
}

void decode_strip(const Groups& kind, GemmArithmetic arithmetic, const char* strip, int64_t vectors, int64_t begin, int64_t end, char* to) {
  const bool narrow = arithmetic != GemmArithmetic::f32;
  kind.bits == 4 ? decode<4>(kind, narrow, strip, vectors, begin, end, to) : decode<8>(kind, narrow, strip, vectors, begin, end, to);
}

}  // namespace drystone::DRYSTONE_ISA
