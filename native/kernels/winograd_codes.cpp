// Winograd's convolution of codes in integers: exact but for the roundings of the transform back, for CPUs that multiply words as fast
// as floats, two at a time.
//
// The points are 0, +-1, +-2 and infinity (of tiles of 2: 0, +-1, infinity), of which all transforms but the last one are of integers.
// Codes less their zero point differ by at most 255, so transformed inputs fit int16: the coefficients of one sign sum to 68 at most,
// and 68 * 255 = 17340. Weights, whose rows are multiplied by 4, 6, 6, 24, 24 and 1, sum to 7 * 7 * 128 = 6272 at most. Both are largest
// at different points: products are below 2^25 (4590 * 6272), so that sums over a run of channels fit int32 whatever the codes. Those are
// added as float32.
//
// V[point][in channels / 16][tile][16] of int16; VPMADDWD multiplies two channels of a tile by those of a vector of output channels.
// Blocks and chunks are those of winograd.cpp.
//
// Zen 3, AVX2, one core, tiles of 4, against the float32 kernel without the conversions around it: 64 channels at 56 x 56 0.64 ms
// against 0.98, 128 at 28 x 28 0.57 against 0.87, 256 at 14 x 14 0.63 against 1.06.
#include "kernels/winograd_codes.h"

#include <algorithm>

#include "kernels/codes.h"
#include "kernels/winograd_blocks.h"
#include "kernels/winograd_epilogue.h"
#include "kernels/winograd_patches.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats, kCodes = winograd_codes;

using Words = Vector<int16_t, kCodes>;

template <int m>
struct IntegerTransform;

template <>
struct IntegerTransform<2> {
  static inline void input(const Words* d, Words* v) {
    v[0] = d[2] - d[0];
    v[1] = d[2] + d[1];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  // Twice the results.
  static inline void output(const Floats* s, Floats* y) {
    y[0] = 2.0f * s[0] + (s[1] + s[2]);
    y[1] = 2.0f * s[3] + (s[1] - s[2]);
  }
};

template <>
struct IntegerTransform<4> {
  static inline void input(const Words* d, Words* v) {
    v[0] = (d[4] - d[2]) + (d[0] - d[2]) * 4;
    v[5] = (d[5] - d[3]) + (d[1] - d[3]) * 4;
    const Words even_1 = d[4] - d[2] * 4, odd_1 = d[3] - d[1] * 4;
    v[1] = even_1 + odd_1;
    v[2] = even_1 - odd_1;
    const Words even_2 = d[4] - d[2], odd_2 = (d[3] - d[1]) * 2;
    v[3] = even_2 + odd_2;
    v[4] = even_2 - odd_2;
  }
  // 24 times the results.
  static inline void output(const Floats* s, Floats* y) {
    const Floats even_1 = s[1] + s[2], odd_1 = s[1] - s[2], even_2 = s[3] + s[4], odd_2 = s[3] - s[4];
    y[0] = 6.0f * s[0] + (4.0f * even_1 + even_2);
    y[1] = 4.0f * odd_1 + 2.0f * odd_2;
    y[2] = 4.0f * even_1 + 4.0f * even_2;
    y[3] = 24.0f * s[5] + (4.0f * odd_1 + 8.0f * odd_2);
  }
};

inline Ints products_of(Ints x, Ints weights) {
#ifdef __AVX512F__
  return (Ints)_mm512_madd_epi16((__m512i)x, (__m512i)weights);
#else
  return (Ints)_mm256_madd_epi16((__m256i)x, (__m256i)weights);
#endif
}

template <int m>
struct OfCodes {
  using Point = int16_t;
  static constexpr int64_t tile = m, lanes = kCodes;
  const WinogradArgs& args;
  bool direct;  // whether results are rounded to codes as they are, within bounds

  static int64_t apart(int64_t tiles, int64_t channels) { return tiles * channels + winograd_gap_bytes / 2; }

  // Codes less their zero point.
  Words loaded(const uint8_t* from, __m128i flip) const {
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return (Words)_mm256_cvtepu8_epi16(_mm_xor_si128(codes, flip)) - static_cast<int16_t>(args.zero);
  }

  // The vector of channels from c on -> its points, `stride` apart. Padding is 0.
  void transform_codes(const Patch& patch, int64_t c, __m128i flip, int16_t* to, int64_t stride) const {
    constexpr int n = m + 2;
    const WinogradArgs& a = args;
    const auto [image, slice, top, left] = patch.at;
    const uint8_t* in = static_cast<const uint8_t*>(a.input) + offset(a.in_map, {image, slice, top, left}, c);
    const auto pixel = [&](int i, int j) {
      const int64_t h = top + i, w = left + j;
      const bool exists = patch.inside || (h >= 0 && h < a.in_height && w >= 0 && w < a.in_width);
      return exists ? loaded(in + i * a.in_map.row + j * a.in_map.column, flip) : Words{};
    };
    transform_tile<m, IntegerTransform<m>>(pixel, [&](int i, int j, const Words& x) { store_raw(to + (i * n + j) * stride, x); });
  }

  void transform_inputs(int64_t first, int64_t tiles, Range items, int64_t, int16_t* v) const {
    const int64_t vectors = args.in_channels / kCodes, stride = apart(tiles, args.in_channels);
    const __m128i flip = _mm_set1_epi8(args.dtype == DType::s8 ? -128 : 0);
    for (int64_t item = items.begin; item < items.end;) {
      const int64_t t = item / vectors, last = least(items.end, (t + 1) * vectors);
      const Patch patch = patch_at<m>(args, position(args, first + t));
      for (; item < last; item++) {
        const int64_t vector = item % vectors;
        int16_t* to = v + (vector * tiles + t) * kCodes;
        if (patch.inside) {
          transform_codes({patch.at, true, true}, vector * kCodes, flip, to, stride);
        } else {
          transform_codes({patch.at, true, false}, vector * kCodes, flip, to, stride);
        }
      }
    }
  }

  using Sum = Ints;
  static constexpr int together = 2;
  static constexpr bool unrolls = false;
  static constexpr int64_t run = 64;  // whose sums fit int32
  static inline Sum weights_at(const int16_t* u) { return (Ints)load_raw<2 * W>(u); }
  static inline Sum input_at(const int16_t* v) {
    int32_t pair;
    __builtin_memcpy(&pair, v, sizeof pair);
    return Ints{} + pair;
  }
  static inline void add(Sum& sum, Sum weights, Sum x) { sum += products_of(x, weights); }
  static inline Floats floats(Sum sum) { return __builtin_convertvector(sum, Floats); }

  void transform_outputs(int64_t first, int64_t tiles, int64_t begin, int64_t vectors, const float* products, int64_t stride) const {
    switch (args.output_dtype) {
      case DType::u8: return transform_outputs_to<uint8_t>(first, tiles, begin, vectors, products, stride);
      case DType::s8: return transform_outputs_to<int8_t>(first, tiles, begin, vectors, products, stride);
      default: return transform_outputs_to<float>(first, tiles, begin, vectors, products, stride);
    }
  }

  // Results that only have to be kept within bounds, as codes.
  template <class To>
  inline void put_directly(To* to, const Floats* y, Floats scale, Floats bias, int64_t rows, int64_t columns) const {
    const Affine& q = args.output_affine;
    const float lowest = lowest_of<To> - q.zero_point;
    const auto bound = [&](float x) { return std::min(std::max(x * q.inverse, lowest), lowest + 255.0f); };
    const Floats low = all(bound(args.low)), high = all(bound(args.high));
    scale *= q.inverse;
    bias *= q.inverse;
    const int32_t zero = static_cast<int32_t>(q.zero_point);
#pragma GCC unroll 4
    for (int64_t i = 0; i < m; i++) {
      Ints codes[m];
#pragma GCC unroll 4
      for (int j = 0; j < m; j++) codes[j] = nearest(least_or(high, most_or(low, fma(y[i * m + j], scale, bias)))) + zero;
      if (i < rows)
        for (int64_t j = 0; j < columns; j++) store_low_bytes(to + i * args.out_map.row + j * args.out_map.column, codes[j]);
    }
  }

  template <class To>
  void transform_outputs_to(int64_t first, int64_t tiles, int64_t begin, int64_t vectors, const float* products, int64_t stride) const {
    const WinogradArgs& a = args;
    for (int64_t t = 0; t < tiles; t++) {
      const Position at = position(a, first + t);
      const int64_t rows = least(m, a.out_height - at.row), columns = least(m, a.out_width - at.column);
      for (int64_t vector = 0; vector < vectors; vector++) {
        const float* from = products + (vector * tiles + t) * W;
        const int64_t c = begin + vector * W;
        const Floats bias = a.bias ? load<W>(a.bias + c) : Floats{}, scale = load<W>(a.scales + c);
        To* to = static_cast<To*>(a.output) + offset(a.out_map, at, c);
        Floats y[m * m];
        transform_back<m, IntegerTransform<m>>(from, stride, y);
        if constexpr (sizeof(To) == 1) {
          if (direct) {
            put_directly(to, y, scale, bias, rows, columns);
            continue;
          }
        }
#pragma GCC unroll 16
        for (int i = 0; i < m * m; i++) y[i] = fma(y[i], scale, bias);
        for (int i = 0; i < a.ops; i++) apply<m>(a.op[i], at, c, rows, columns, y);
        for (int64_t i = 0; i < rows; i++)
          for (int64_t j = 0; j < columns; j++) store_as(to + i * a.out_map.row + j * a.out_map.column, y[i * m + j], a.output_affine);
      }
    }
  }
};

}  // namespace

void winograd_of_codes(const WinogradArgs& a) {
  bool direct = a.bounded && is_code(a.output_dtype);
  for (int64_t c = 0; direct && a.bias && c < a.out_channels; c++) direct = a.bias[c] == a.bias[c];
  a.tile == 4 ? convolve_blocks(OfCodes<4>{a, direct}) : convolve_blocks(OfCodes<2>{a, direct});
}

}  // namespace drystone::DRYSTONE_ISA
