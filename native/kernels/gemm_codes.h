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

// Of one part of the work. Memory: 8 bytes a row if dynamic, or else as many as a block of k has if there are patches.
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

  // The part `k` of what row `row` meets, put together in memory.
  const uint8_t* patch(const GemmArgs& a, int64_t row, Range k) const {
    const GemmPatches& p = a.patches;
    auto* to = reinterpret_cast<uint8_t*>(memory_);
    const int64_t column = row % p.out_size[2], line = row / p.out_size[2] % p.out_size[1], image = row / p.out_size[2] / p.out_size[1];
    const int64_t top = line * p.stride[1] - p.padding[1], left = column * p.stride[2] - p.padding[2];
    // Neighbouring taps whose pixels are neighbours are one run.
    const int64_t taps = p.dilation[2] == 1 && p.pixel == p.channels ? p.kernel[2] : 1, length = taps * p.channels;
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
      const auto* source = static_cast<const uint8_t*>(a.x) + image * p.image + y * p.line + x * p.pixel;
      if (begin > from) __builtin_memset(to, fill, begin - from);
      copy_bytes(to + (begin - from), source + begin, end - begin);
      if (until > end) __builtin_memset(to + (end - from), fill, until - end);
      to += until - from;
    }
    return reinterpret_cast<const uint8_t*>(memory_);
  }

  // What sums begin with, in the place of a float: of rows that have one zero point, what that adds to them.
  float start(const GemmArgs& a, int64_t column) const { return __builtin_bit_cast(float, each_ ? 0 : -a.zero * a.weight_sums[column]); }

  // Sums of products (int32, in the place of floats) become what they stand for, plus bias and what is added. Columns from `column` on, of
  // which `columns` are there. Where codes are made of it and there is no more to do, they are stored at once: true.
  bool decode(const GemmArgs& a, float* tile, int64_t width, int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    const auto decode_with = [&](auto addend) { return decode(a, tile, width, row, rows, column, columns, addend); };
    if (!a.adds) return decode_with([](int64_t, int64_t, int64_t) { return Floats{}; });
    const GemmOp& op = a.op[0];
    const auto rows_of = [&]<class T>(const T* first) { return Addend<T>{first + row * op.row_stride + column, op.row_stride, op.affine}; };
    if (op.dtype == DType::u8) return decode_with(rows_of(static_cast<const uint8_t*>(op.operand)));
    if (op.dtype == DType::s8) return decode_with(rows_of(static_cast<const int8_t*>(op.operand)));
    return decode_with(rows_of(static_cast<const float*>(op.operand)));
  }

 private:
  // What is added to a tile.
  template <class T>
  struct Addend {
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

  template <class Added>
  bool decode(const GemmArgs& a, float* tile, int64_t width, int64_t row, int64_t rows, int64_t column, int64_t columns,
              Added added) const {
    const auto store_to = [&]<class Code>(Code* output) {
      // Bounds of results are bounds of their codes.
      const Affine q = a.output_affine;
      const auto bound = [&](float x) {
        const float code = __builtin_rintf(x * q.inverse) + q.zero_point;
        return clamp(code, lowest_of<Code>, lowest_of<Code> + 255.0f);
      };
      const float lowest = a.bounded ? bound(a.low) : lowest_of<Code>, highest = a.bounded ? bound(a.high) : lowest_of<Code> + 255.0f;
      const Decoded decoded(*this, a, tile, width, row, column, columns);
      const auto codes = [&](int64_t r, int64_t c) { return encoded(decoded(r, c) + added(r, c, columns), q, lowest, highest); };
      for (int64_t r = 0; r < rows; r++) {
        Code* to = output + (row + r) * a.output_stride + column;
        int64_t c = 0;
        for (; c + 2 * kFloats <= columns; c += 2 * kFloats) store_low_bytes(to + c, codes(r, c), codes(r, c + kFloats));
        for (; c < columns; c += kFloats) store_low_bytes(to + c, codes(r, c), columns - c);
      }
      return true;
    };
    const bool ends = a.ops == 0 || a.adds;
    if (ends && a.output_dtype == DType::u8) return store_to(static_cast<uint8_t*>(a.output));
    if (ends && a.output_dtype == DType::s8) return store_to(static_cast<int8_t*>(a.output));
    const Floats low = all(a.bounded ? a.low : -infinity), high = all(a.bounded ? a.high : infinity);
    const Decoded decoded(*this, a, tile, width, row, column, columns);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < width; c += kFloats)
        store<kFloats>(tile + r * width + c, least_or(high, most_or(low, decoded(r, c) + added(r, c, columns))));
    return false;
  }

  // Vectors of a tile as numbers, with the bias.
  class Decoded {
   public:
    Decoded(const Codes& codes, const GemmArgs& a, const float* tile, int64_t width, int64_t row, int64_t column, int64_t columns)
        : tile_(tile), width_(width), scales_(a.scales + column), weight_sums_(a.weight_sums + column), bias_(kZeros) {
      if (codes.each_) each_ = codes.each_ + (row - codes.first_);
      if (!a.bias) return;
      bias_ = a.bias + column;
      if (columns % kFloats == 0) return;
      for (int64_t c = 0; c < width; c++) rest_[c] = c < columns ? bias_[c] : 0.0f;
      bias_ = rest_;
    }
    Decoded(const Decoded&) = delete;

    Floats operator()(int64_t r, int64_t c) const {
      Ints sum = (Ints)load<kFloats>(tile_ + r * width_ + c);
      Floats scale = load<kFloats>(scales_ + c);
      if (each_) {
        sum -= each_[r].zero * load_raw<kFloats>(weight_sums_ + c);
        scale *= each_[r].scale;
      }
      return fma(__builtin_convertvector(sum, Floats), scale, load<kFloats>(bias_ + c));
    }

   private:
    static constexpr float kZeros[4 * kFloats] = {};
    const float* tile_;
    int64_t width_;
    const float* scales_;
    const int32_t* weight_sums_;
    const float* bias_;
    const RowCodes* each_ = nullptr;
    float rest_[4 * kFloats];
  };

  int64_t first_;
  RowCodes constant_;
  const RowCodes* each_ = nullptr;
  std::byte* memory_;
};

}  // namespace drystone::DRYSTONE_ISA
