// What the GEMM needs beside its tiles where it multiplies codes: how each row of x is encoded, the patches of images that are its rows,
// and what the sums stand for.
#pragma once

#include "kernels/codes.h"
#include "kernels/gemm.h"

namespace drystone::DRYSTONE_ISA {

// The scale of a row's codes, and what is packed for the number 0.
struct RowCodes {
  float scale;
  int32_t zero;
};

// Codes of floats, as they are packed: from 0 on.
struct Encoder {
  float inverse, zero, lowest, highest;

  Encoder(const GemmDynamic& dynamic, const RowCodes& row)
      : inverse(1.0f / row.scale),
        zero(static_cast<float>(row.zero)),
        lowest(static_cast<float>(dynamic.lowest + (dynamic.lowest < 0 ? 128 : 0))),
        highest(lowest + static_cast<float>(dynamic.highest - dynamic.lowest)) {}

  uint8_t operator()(float x) const {
    const float code = __builtin_rintf(x * inverse) + zero;
    const float kept = code > lowest ? code : lowest;  // NaN: the scale is one as well
    return static_cast<uint8_t>(static_cast<int32_t>(kept < highest ? kept : highest));
  }
};

// The lowest and highest of 0 and some numbers; NaN, both of them, if one is no finite number.
struct Extent {
  float low = 0, high = 0;
  void take(const Extent& other) {
    low = minimum(low, other.low);
    high = maximum(high, other.high);
  }
};

inline Extent extent_of(const float* x, int64_t count) {
  float low = 0, high = 0, none = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : none)
  for (int64_t i = 0; i < count; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
    none += x[i] * 0.0f;
  }
  return none == 0.0f ? Extent{low, high} : Extent{__builtin_nanf(""), __builtin_nanf("")};
}

inline Extent extent_of_row(const GemmArgs& a, int64_t row) {
  if (a.x_dtype == DType::f32) return extent_of(static_cast<const float*>(a.x) + row * a.x_stride, a.k);
  constexpr int64_t run = 512;
  float buffer[run];
  Extent extent;
  for (int64_t k = 0; k < a.k; k += run) {
    const int64_t count = least(run, a.k - k);
    load(buffer, static_cast<const uint16_t*>(a.x) + row * a.x_stride + k, DType::bf16, 1, count);
    extent.take(extent_of(buffer, count));
  }
  return extent;
}

inline RowCodes codes_for(const GemmDynamic& d, const Extent& extent) {
  const auto lowest = static_cast<float>(d.lowest), highest = static_cast<float>(d.highest);
  const int32_t flip = d.lowest < 0 ? 128 : 0;
  if (d.symmetric) {
    const float scale = maximum(maximum(-extent.low, extent.high) / ((highest - lowest) / 2.0f), d.eps);
    return {scale, flip};
  }
  const float scale = maximum((extent.high - extent.low) / (highest - lowest), d.eps);
  const float zero = lowest - __builtin_rintf(extent.low / scale);
  const float kept = zero > lowest ? zero : lowest;
  return {scale, static_cast<int32_t>(kept < highest ? kept : highest) + flip};
}

// Short runs, which a call of memcpy would cost more than.
inline void copy_bytes(uint8_t* to, const uint8_t* from, int64_t count) {
  const auto move = [&](int64_t at, auto word) {
    __builtin_memcpy(&word, from + at, sizeof word);
    __builtin_memcpy(to + at, &word, sizeof word);
  };
  if (count >= 32) {
    using Word = Vector<uint8_t, 32>;
    for (int64_t i = 0; i + 32 < count; i += 32) move(i, Word{});
    return move(count - 32, Word{});
  }
  if (count >= 16) return move(0, Vector<uint8_t, 16>{}), move(count - 16, Vector<uint8_t, 16>{});
  if (count >= 8) return move(0, uint64_t{}), move(count - 8, uint64_t{});
  if (count >= 4) return move(0, uint32_t{}), move(count - 4, uint32_t{});
  for (int64_t i = 0; i < count; i++) to[i] = from[i];
}

// Of one part of the work. Memory: 8 bytes a row if dynamic, or else for patches the packed bytes of a tile's rows.
class Codes {
 public:
  Codes(const GemmArgs& a, Range rows, std::byte* memory) : first_(rows.begin), constant_{1.0f, a.zero}, memory_(memory) {
    if (a.dynamic.by == GemmDynamic::By::none) return;
    auto* each = reinterpret_cast<RowCodes*>(memory);
    each_ = each;
    if (a.dynamic.by == GemmDynamic::By::row) {
      for (int64_t r = rows.begin; r < rows.end; r++) each[r - first_] = codes_for(a.dynamic, extent_of_row(a, r));
      return;
    }
    Extent extent;
    for (int64_t r = 0; r < a.m; r++) extent.take(extent_of_row(a, r));
    for (int64_t r = rows.begin; r < rows.end; r++) each[r - first_] = codes_for(a.dynamic, extent);
  }

  const RowCodes& of(int64_t row) const { return each_ ? each_[row - first_] : constant_; }

  uint8_t* for_patches() const { return reinterpret_cast<uint8_t*>(memory_); }

  // Puts together the part `k` of what row `row` meets.
  static void patch(const GemmArgs& a, int64_t row, Range k, uint8_t* to) {
    const GemmPatches& p = a.patches;
    const int64_t column = row % p.out_size[2], line = row / p.out_size[2] % p.out_size[1], image = row / p.out_size[2] / p.out_size[1];
    const int64_t top = line * p.stride[1] - p.padding[1], left = column * p.stride[2] - p.padding[2];
    // Neighbouring taps whose pixels are neighbours are one run.
    const int64_t taps = p.dilation[2] == 1 && p.pixel == p.channels ? p.kernel[2] : 1, length = taps * p.channels;
    const auto* x_image = static_cast<const uint8_t*>(a.x) + image * p.image;
    const bool whole = k.begin == 0 && k.end == a.k && taps == p.kernel[2];
    if (whole && top >= 0 && top + (p.kernel[1] - 1) * p.dilation[1] < p.in_size[1] && left >= 0 && left + taps <= p.in_size[2]) {
      const uint8_t* source = x_image + top * p.line + left * p.pixel;
      const int64_t apart = p.dilation[1] * p.line;
      for (int64_t i = 0; i < p.kernel[1]; i++) copy_bytes(to + i * length, source + i * apart, length);
      return;
    }
    const auto fill = static_cast<uint8_t>(a.x_dtype == DType::s8 ? a.zero ^ 0x80 : a.zero);
    const int64_t first = k.begin / length;
    int64_t tap_line = first * taps / p.kernel[2], tap_column = first * taps % p.kernel[2];
    for (int64_t at = first * length; at < k.end; at += length) {
      const int64_t y = top + tap_line * p.dilation[1], x = left + tap_column * p.dilation[2];
      tap_column += taps;
      if (tap_column == p.kernel[2]) {
        tap_column = 0;
        tap_line++;
      }
      const int64_t from = larger(k.begin - at, 0), until = least(k.end - at, length);
      const bool inside = y >= 0 && y < p.in_size[1];
      const int64_t begin = inside ? least(larger(-x * p.channels, from), until) : until;
      const int64_t end = inside ? larger(least((p.in_size[2] - x) * p.channels, until), begin) : until;
      const uint8_t* source = x_image + y * p.line + x * p.pixel;
      if (begin > from) __builtin_memset(to, fill, begin - from);
      copy_bytes(to + (begin - from), source + begin, end - begin);
      if (until > end) __builtin_memset(to + (end - from), fill, until - end);
      to += until - from;
    }
  }

  // What sums begin with, in the place of a float: of rows that have one zero point, what that adds to them.
  float start(const GemmArgs& a, int64_t column) const { return __builtin_bit_cast(float, each_ ? 0 : -a.zero * a.weight_sums[column]); }

  // Sums of products (int32, in the place of floats) become what they stand for, plus bias and what is added. Columns from `column` on, of
  // which `columns` are there. Where codes are made of it and there is no more to do, they are stored at once: true.
  bool decode(const GemmArgs& a, float* sums, int64_t width, int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    const Tile tile{sums, width, row, rows, column, columns};
    if (!a.adds) return decode(a, tile, Nothing{});
    const GemmOp& op = a.op[0];
    const auto rows_of = [&]<class T>(const T* first) { return Addend<T>{first + row * op.row_stride + column, op.row_stride, op.affine}; };
    if (op.dtype == DType::u8) return decode(a, tile, rows_of(static_cast<const uint8_t*>(op.operand)));
    if (op.dtype == DType::s8) return decode(a, tile, rows_of(static_cast<const int8_t*>(op.operand)));
    return decode(a, tile, rows_of(static_cast<const float*>(op.operand)));
  }

 private:
  // What is added to a tile; `finite`: for sure.
  struct Nothing {
    static constexpr bool finite = true;
    Floats operator()(int64_t, int64_t, int64_t) const { return Floats{}; }
  };
  template <class T>
  struct Addend {
    static constexpr bool finite = sizeof(T) == 1;
    const T* first;
    int64_t stride;
    Affine q;

    Floats operator()(int64_t r, int64_t c, int64_t columns) const {
      const T* from = first + r * stride + c;
      T rest[kFloats] = {};
      if (c + kFloats > columns) {
        for (int64_t i = 0; i < columns - c; i++) rest[i] = from[i];
        from = rest;
      }
      if constexpr (sizeof(T) == 1)
        return (__builtin_convertvector(widened(from), Floats) - q.zero_point) * q.scale;
      else
        return load<kFloats>(from);
    }
  };

  // Sums of products of a tile, its first row and column in the whole, and how many of these are there.
  struct Tile {
    float* sums;
    int64_t width, row, rows, column, columns;
  };

  template <class Added>
  bool decode(const GemmArgs& a, const Tile& tile, Added added) const {
    const bool ends = a.ops == 0 || a.adds;
    if (ends && a.output_dtype == DType::u8) return encode(a, tile, static_cast<uint8_t*>(a.output), added);
    if (ends && a.output_dtype == DType::s8) return encode(a, tile, static_cast<int8_t*>(a.output), added);
    const Floats low = all(a.bounded ? a.low : -infinity), high = all(a.bounded ? a.high : infinity);
    const RowCodes* each = each_ ? each_ + (tile.row - first_) : nullptr;
    for (int64_t c = 0; c < tile.width; c += kFloats) {
      const Column column(a, tile.column + c, tile.columns - c);
      for (int64_t r = 0; r < tile.rows; r++) {
        float* at = tile.sums + r * tile.width + c;
        store<kFloats>(at, least_or(high, most_or(low, column(at, each, r) + added(r, c, tile.columns))));
      }
    }
    return false;
  }

  template <class Code, class Added>
  bool encode(const GemmArgs& a, const Tile& tile, Code* output, Added added) const {
    // Bounds of results are bounds of their codes.
    const Affine q = a.output_affine;
    const auto bound = [&](float x) {
      const float code = __builtin_rintf(x * q.inverse) + q.zero_point;
      return clamp(code, lowest_of<Code>, lowest_of<Code> + 255.0f);
    };
    const float lowest = a.bounded ? bound(a.low) : lowest_of<Code>, highest = a.bounded ? bound(a.high) : lowest_of<Code> + 255.0f;
    const int64_t stride = a.output_stride, rows = tile.rows, width = tile.width, columns = tile.columns;
    const RowCodes* each = each_ ? each_ + (tile.row - first_) : nullptr;
    for (int64_t c = 0; c < columns; c += 2 * kFloats) {
      const int64_t there = columns - c;
      const Column one(a, tile.column + c, there), other(a, tile.column + c + kFloats, there - kFloats);
      const float* sums = tile.sums + c;
      Code* to = output + tile.row * stride + tile.column + c;
#ifndef __AVX512F__
      if (there >= 2 * kFloats && !each && Added::finite && one.finite() && other.finite()) {
        const Narrow<Code> narrow(q, lowest, highest);
        for (int64_t r = 0; r < rows; r++, sums += width, to += stride)
          narrow.store(to, one(sums) + added(r, c, columns), other(sums + kFloats) + added(r, c + kFloats, columns));
        continue;
      }
#endif
      for (int64_t r = 0; r < rows; r++, sums += width, to += stride) {
        store_low_bytes(to, encoded(one(sums, each, r) + added(r, c, columns), q, lowest, highest), there);
        if (there <= kFloats) continue;
        store_low_bytes(to + kFloats, encoded(other(sums + kFloats, each, r) + added(r, c + kFloats, columns), q, lowest, highest),
                        there - kFloats);
      }
    }
    return true;
  }

  // Turns sums of a vector of columns into numbers, with the bias; `there`: how many of them are.
  struct Column {
    Floats scale = {}, bias = {};
    Ints weight_sums = {};

    Column(const GemmArgs& a, int64_t column, int64_t there) {
      if (there <= 0) return;
      scale = load<kFloats>(a.scales + column);
      weight_sums = load_raw<kFloats>(a.weight_sums + column);
      if (!a.bias) return;
      const float* from = a.bias + column;
      float rest[kFloats] = {};
      if (there < kFloats) {
        for (int64_t i = 0; i < there; i++) rest[i] = from[i];
        from = rest;
      }
      bias = load<kFloats>(from);
    }

#ifndef __AVX512F__
    // Whether no result is NaN, nor becomes it where a number is added.
    bool finite() const {
      const Floats most = all(0x1p90f);
      return _mm256_movemask_ps((__m256)((scale < most) & (absolute(bias) < most))) == 0xff;
    }
#endif

    Floats operator()(const float* sums) const { return fma(__builtin_convertvector((Ints)load<kFloats>(sums), Floats), scale, bias); }
    Floats operator()(const float* sums, const RowCodes* each, int64_t row) const {
      if (!each) return (*this)(sums);
      const Ints sum = (Ints)load<kFloats>(sums);
      return fma(__builtin_convertvector(sum - each[row].zero * weight_sums, Floats), scale * each[row].scale, bias);
    }
  };

  int64_t first_;
  RowCodes constant_;
  const RowCodes* each_ = nullptr;
  std::byte* memory_;
};

}  // namespace drystone::DRYSTONE_ISA
