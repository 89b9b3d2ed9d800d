// Products with weights in 4 or 8 bits, whose groups along k share a scale.
//
// A word of 32 bits holds neighbours along k of one column, 8 or 4 of them; a vector of words is as many columns as floats. So a code
// becomes a float where it lies: shifted, masked, converted (with AVX-512 4 bits are looked up instead), scaled. 4 bits: byte i of a word
// holds code i below code i + 4, so that its low halves, and its high ones, are four neighbours, as products of bytes take them.
// Weights are scaled before they are multiplied, so NaN, infinities and large numbers come out as of the same weights in float32.
#include "kernels/gemm_codes.h"

#include <immintrin.h>

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;
constexpr int64_t kAhead = 4096;  // bytes

using Words = Vector<uint32_t, W>;

inline Lanes load_half(const char* from) {
#ifdef __AVX512F__
  return (Lanes)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#else
  return (Lanes)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#endif
}

// Code i of each word as a float, less what can be taken off it for nothing.
template <int Bits>
struct Code;

template <>
struct Code<8> {
  static constexpr float zero = 128, less = 0;
  static inline Lanes at(const Words& words, int i) { return __builtin_convertvector((Vector<int32_t, W>)(words >> 8 * i & 255), Lanes); }
};

template <>
struct Code<4> {
#ifdef __AVX512F__
  static constexpr float zero = 8, less = 8;
  static inline Lanes at(const Words& words, int i) {
    const Lanes table = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    return (Lanes)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)(words >> (i < 4 ? 8 * i : 8 * i - 28)), (__m512)table);
  }
#else
  static constexpr float zero = 8, less = 0;
  static inline Lanes at(const Words& words, int i) {
    return __builtin_convertvector((Vector<int32_t, W>)(words >> (i < 4 ? 8 * i : 8 * i - 28) & 15), Lanes);
  }
#endif
};

// What a group's columns have in common: weight = scale * Code::at() + offset.
template <int Bits, int Vectors>
struct Scales {
  Lanes scale[Vectors], offset[Vectors];

  __attribute__((always_inline)) inline void read(const GemmCodes& codes, const char* group) {
    const int64_t apart = Vectors * W * size_of(codes.dtype);
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      scale[v] = number(codes, group, v);
      offset[v] =
          codes.minima ? number(codes, group + apart, v) + scale[v] * Code<Bits>::less : scale[v] * (Code<Bits>::less - Code<Bits>::zero);
    }
  }

  static inline Lanes number(const GemmCodes& codes, const char* from, int v) {
    return codes.dtype == DType::f16 ? load_half(from + v * W * 2) : load<W>(reinterpret_cast<const float*>(from) + v * W);
  }
};

inline const char* group_at(const GemmCodes& codes, const char* strip, int64_t vectors, int64_t index) {
  return strip + index * vectors * W * codes.column_bytes();
}

// `word(address, scales, k)` for each word [begin, end) of k in a strip, group by group.
template <int Bits, int Vectors, class Work>
__attribute__((always_inline)) inline void each_word(const GemmCodes& codes, const char* strip, int64_t begin, int64_t end, Work work) {
  constexpr int64_t unit = 32 / Bits, word_bytes = Vectors * W * 4;
  const int64_t header = Vectors * W * codes.header_bytes();
  for (int64_t index = begin / codes.group; index * codes.group < end; index++) {
    const char* group = group_at(codes, strip, Vectors, index);
    Scales<Bits, Vectors> scales;
    scales.read(codes, group);
    const int64_t first = index * codes.group;
    const int64_t from = larger(begin, first), to = least(end, first + codes.group);
    const char* words = group + header + (from - first) / unit * word_bytes;
    for (int64_t k = from; k < to; k += unit, words += word_bytes) work(words, scales, k - begin);
  }
}

template <int Bits, int Rows, int Vectors>
void multiply_codes(const GemmTile& t, const GemmCodes& codes, int64_t begin, int64_t end) {
  constexpr int unit = 32 / Bits;
  // Few rows leave registers for several sums: less rounding, and no wait for the one before.
  constexpr int sets = Rows * Vectors * 2 <= kTile.rows * kTile.vectors ? 2 : 1;
  Lanes sums[sets][Rows][Vectors] = {};
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) sums[0][r][v] = load<W>(t.start + r * t.start_stride + v * W);

  each_word<Bits, Vectors>(codes, t.weights, begin, end,
                           [&](const char* words, const Scales<Bits, Vectors>& scales, int64_t k) __attribute__((always_inline)) {
#pragma GCC unroll 4
                             for (int line = 0; line < Vectors * kVectorBytes / 64; line++)
                               __builtin_prefetch(words + kAhead + line * 64, 0, 2);
                             const char* x = t.x + k / 16 * (Rows * kChunkBytes) + k % 16 * 4;
                             Words word[Vectors];
#pragma GCC unroll 4
                             for (int v = 0; v < Vectors; v++) word[v] = load_raw<W>(reinterpret_cast<const uint32_t*>(words) + v * W);
#pragma GCC unroll 8
                             for (int i = 0; i < unit; i++) {
                               Lanes weight[Vectors];
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

template <int Bits, int Rows = kTile.rows, int Vectors = kTile.vectors>
CodesTileFunction tile_of_codes(int64_t rows, int64_t vectors) {
  if constexpr (Rows > 1)
    if (rows < Rows) return tile_of_codes<Bits, Rows - 1, Vectors>(rows, vectors);
  if constexpr (Vectors > 1)
    if (vectors < Vectors) return tile_of_codes<Bits, Rows, Vectors - 1>(rows, vectors);
  return multiply_codes<Bits, Rows, Vectors>;
}

// Two bfloat16 in a float's place, the first in its low half.
inline Words pair_of(const Lanes& first, const Lanes& second) {
  const auto rounded = [](const Lanes& v) {
    const Words bits = (Words)v;
    return (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
  };
  return rounded(first) >> 16 | (rounded(second) & 0xffff0000);
}

template <int Bits, int Vectors>
void decode(const GemmCodes& codes, bool narrow, const char* strip, int64_t begin, int64_t end, char* to) {
  constexpr int unit = 32 / Bits;
  each_word<Bits, Vectors>(codes, strip, begin, end,
                           [&](const char* words, const Scales<Bits, Vectors>& scales, int64_t k) __attribute__((always_inline)) {
#pragma GCC unroll 4
                             for (int v = 0; v < Vectors; v++) {
                               const Words word = load_raw<W>(reinterpret_cast<const uint32_t*>(words) + v * W);
                               Lanes weight[unit];
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
void decode(const GemmCodes& codes, bool narrow, const char* strip, int64_t vectors, int64_t begin, int64_t end, char* to) {
  if (vectors == 3 && kTile.vectors == 3) return decode<Bits, kTile.vectors>(codes, narrow, strip, begin, end, to);
  if (vectors == 2) return decode<Bits, 2>(codes, narrow, strip, begin, end, to);
  decode<Bits, 1>(codes, narrow, strip, begin, end, to);
}

}  // namespace

CodesTileFunction codes_tile(const GemmCodes& codes, int64_t rows, int64_t vectors) {
  return codes.bits == 4 ? tile_of_codes<4>(rows, vectors) : tile_of_codes<8>(rows, vectors);
}

void decode_strip(const GemmCodes& codes, GemmArithmetic arithmetic, const char* strip, int64_t vectors, int64_t begin, int64_t end,
                  char* to) {
  const bool narrow = arithmetic != GemmArithmetic::f32;
  codes.bits == 4 ? decode<4>(codes, narrow, strip, vectors, begin, end, to) : decode<8>(codes, narrow, strip, vectors, begin, end, to);
}

}  // namespace drystone::DRYSTONE_ISA
