// Rows of x rounded to int8, and their tile without VNNI.
//
// VPMADDUBSW multiplies u8 by s8 and adds pairs of products in 16 bits, where they saturate: here never, so the sums are exact.
// Codes of 4 bits are at most 15: two pairs are 4 * 15 * 127 = 7620. Codes of 8 bits get a sign, w = code - 128, and |w| is multiplied by x
// with w's sign: a pair is 2 * 128 * 127 = 32512 at most, less than 2^15. (x is never -128, whose sign could not be turned.)
// VPMADDWD adds those pairs in 32 bits.
//
// Zen 4, one core, one row of 1024, weights in the second level, groups of 32: 69 weights a nanosecond of 8 bits and 94 of 4 with VPDPBUSD,
// 42 and 57 with AVX2 alone. In float32 (gemm_groups.cpp) it is 25 and 20. 8 rows: 17 weights, 279 GFLOP/s, against 6 and 98. Memory gives
// 28 weights of 8 bits, which is nine tenths of the rate at which it is read.
#include "kernels/gemm_rounded.h"

#include "kernels/codes.h"
#include "kernels/gemm_rounded_tile.h"

namespace drystone::DRYSTONE_ISA {

namespace {

inline Ints add_pairs(Ints unsigned_codes, Ints signed_codes) {
#ifdef __AVX512F__
  return (Ints)_mm512_maddubs_epi16((__m512i)unsigned_codes, (__m512i)signed_codes);
#else
  return (Ints)_mm256_maddubs_epi16((__m256i)unsigned_codes, (__m256i)signed_codes);
#endif
}

inline void add_words(Ints& sum, Ints words) {
#ifdef __AVX512F__
  sum += (Ints)_mm512_madd_epi16((__m512i)words, _mm512_set1_epi16(1));
#else
  sum += (Ints)_mm256_madd_epi16((__m256i)words, _mm256_set1_epi16(1));
#endif
}

struct Pairs {
  template <int Bits>
  struct Word;
};

template <>
struct Pairs::Word<8> {
  Ints weights, sizes;
  Word() = default;
  explicit Word(Ints word) : weights(word ^ static_cast<int32_t>(0x80808080)) {
#ifdef __AVX512F__
    sizes = (Ints)_mm512_abs_epi8((__m512i)weights);
#else
    sizes = (Ints)_mm256_abs_epi8((__m256i)weights);
#endif
  }
  __attribute__((always_inline)) inline void multiply(Ints& sum, const char* x) const {
    const Ints four = four_codes(x);
#ifdef __AVX512F__
    const __m512i turned =
        _mm512_mask_sub_epi8((__m512i)four, _mm512_movepi8_mask((__m512i)weights), _mm512_setzero_si512(), (__m512i)four);
#else
    const __m256i turned = _mm256_sign_epi8((__m256i)four, (__m256i)weights);
#endif
    add_words(sum, add_pairs(sizes, (Ints)turned));
  }
};

template <>
struct Pairs::Word<4> {
  Ints low, high;
  Word() = default;
  explicit Word(Ints word) : low(word & 0x0f0f0f0f), high(word >> 4 & 0x0f0f0f0f) {}
  __attribute__((always_inline)) inline void multiply(Ints& sum, const char* x) const {
    using Shorts = Vector<int16_t, kFloats * 2>;
    add_words(sum, (Ints)((Shorts)add_pairs(low, four_codes(x)) + (Shorts)add_pairs(high, four_codes(x + 4))));
  }
};

// Numbers [from, from + kFloats) of `count`; 0 beyond.
template <class T>
inline Floats numbers_at(const T* x, int64_t from, int64_t count) {
  if (from + kFloats <= count) return load<kFloats>(x + from);
  float rest[kFloats] = {};
  for (int64_t i = from; i < count; i++) rest[i - from] = load_one(x + i);
  return load<kFloats>(rest);
}

// All elements in one, by an operation that takes them in any order.
template <class Op>
inline int32_t folded(Ints v, Op op) {
  using Eight = Vector<int32_t, 8>;
  using Four = Vector<int32_t, 4>;
#ifdef __AVX512F__
  const Eight eight = op((Eight)_mm512_castsi512_si256((__m512i)v), (Eight)_mm512_extracti32x8_epi32((__m512i)v, 1));
#else
  const Eight eight = v;
#endif
  const Four four = op((Four)_mm256_castsi256_si128((__m256i)eight), (Four)_mm256_extracti128_si256((__m256i)eight, 1));
  const Four two = op(four, (Four)_mm_shuffle_epi32((__m128i)four, 0x4e));
  return op(two, (Four)_mm_shuffle_epi32((__m128i)two, 0xb1))[0];
}

// `shift`: what weights are multiplied as, less their codes without a sign.
template <class T>
void round_group(const T* x, const Groups& kind, int32_t shift, char* to) {
  constexpr int32_t infinite = 0x7f800000;
  constexpr float fewest = 0x1p-120f;
  // As integers magnitudes are in the same order, infinity and NaN above all.
  const auto larger_one = [](auto a, auto b) { return a > b ? a : b; };
  Ints largest_bits = {};
  for (int64_t i = 0; i < kind.group; i += kFloats) {
    const Ints bits = (Ints)numbers_at(x, i, kind.group) & 0x7fffffff;
    largest_bits = larger_one(bits, largest_bits);
  }
  const int32_t most = folded(largest_bits, larger_one);
  const float largest = __builtin_bit_cast(float, most);
  const bool finite = most < infinite;
  const float inverse = finite && largest > fewest ? 127.0f / largest : 0.0f;

  char* codes = to + sizeof(RoundedGroup);
  const int64_t padded = kind.words() * kind.unit();
  Ints sums = {};
  for (int64_t i = 0; i < padded; i += kFloats) {
    const Floats numbers = finite ? numbers_at(x, i, kind.group) : Floats{};
    const Ints rounded_numbers = encoded(numbers, {.inverse = inverse, .zero_point = 0}, -127, 127);
    sums += rounded_numbers;
    if (i + kFloats <= padded) {
      store_low_bytes(codes + i, rounded_numbers);
    } else {
      char rest[kFloats];
      store_low_bytes(rest, rounded_numbers);
      for (int64_t j = i; j < padded; j++) codes[j] = rest[j - i];
    }
  }
  const int32_t sum = folded(sums, [](auto a, auto b) { return a + b; });
  RoundedGroup head;
  head.scale = finite ? largest / 127.0f : __builtin_nanf("");
  head.start = sum * (shift - (kind.minima ? 0 : static_cast<int32_t>(kind.zero())));
  head.sum = head.scale * static_cast<float>(sum);
  head.unused = 0;
  __builtin_memcpy(to, &head, sizeof head);
}

}  // namespace

void round_rows(const GemmArgs& a, Range rows, Range k, char* to) {
  const int32_t shift = a.arithmetic == GemmArithmetic::rounded_pairs && a.groups.bits == 8 ? 128 : 0;
  for (int64_t begin = k.begin; begin < k.end; begin += a.groups.group) {
    for (int64_t row = rows.begin; row < rows.end; row++, to += RoundedGroup::bytes(a.groups)) {
      const void* x = advance(a.x, row * a.x_stride + begin, a.x_dtype);
      if (a.x_dtype == DType::f32)
        round_group(static_cast<const float*>(x), a.groups, shift, to);
      else
        round_group(static_cast<const uint16_t*>(x), a.groups, shift, to);
    }
  }
}

GroupsTileFunction rounded_tile(GemmArithmetic arithmetic, const Groups& kind, int64_t rows, int64_t vectors) {
  return arithmetic == GemmArithmetic::rounded_dot ? rounded_dot_tile(kind, rows, vectors) : rounded_tile_of<Pairs>(kind, rows, vectors);
}

}  // namespace drystone::DRYSTONE_ISA
