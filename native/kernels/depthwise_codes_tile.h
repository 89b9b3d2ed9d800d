// The depthwise convolution of codes, for one arithmetic.
//
// A row of x is spread in the first level cache: for each column at which taps of some output begin, and each channel, the codes of a few
// neighbouring taps side by side, as an instruction multiplies and adds them. Each row is spread once and read by all rows of the kernel.
// Four vectors of channels go together, as bytes they are one vector in memory. Padding is the zero point. Sums are of integers, exact;
// what the zero point adds to them is taken off the start.
//
// The dwords of a vector of bytes are put into an order in which interleaving, which works within 128 bits, gives the channels in theirs.
//
// Zen 4, AVX-512 VNNI, one core, against oneDNN 3.2 on the same codes: 960 channels of 7 x 7, kernel 5: 25 us against 63; 120 of 28 x 28,
// kernel 5: 47 against 93; 72 of 56 x 56, kernel 3: 65 against 105; 64 of 112 x 112, kernel 3, stride 2: 66 against 100.
#pragma once

#include <omp.h>

#include "kernels/codes.h"
#include "kernels/depthwise_codes.h"
#include "kernels/instructions.h"
#include "kernels/interleave.h"
#include "kernels/vector_math.h"

namespace drystone::DRYSTONE_ISA {

template <class Arithmetic>
struct CodesPart {
  static constexpr int W = kFloats, kMost = depthwise_codes_vectors;
  // Outputs of a tile, of so many vectors.
  static constexpr int widest(int vectors) { return kVectorBytes == 64 ? (vectors > 2 ? (vectors > 3 ? 7 : 9) : 14) : 12 / vectors; }

  const DepthwiseCodesArgs& args;
  const DepthwiseArgs& a = args.common;
  std::byte* ring;
  std::byte* outside;  // a row of zero points
  float *line, *operand;
  const std::byte** rows;
  int64_t image = 0, slice = 0, channel = 0, vectors = 0, lanes = 0;  // lanes: channels of the group
  const std::byte* weights = nullptr;
  bool direct = false;  // whether sums are rounded to codes as they are stored
  Ints start[kMost], flip;
  Floats scale[kMost], bias[kMost], low, high;
  int32_t added = 0;

  CodesPart(const DepthwiseCodesArgs& given, std::byte* scratch) : args(given) {
    ring = scratch;
    outside = ring + a.span * a.row_floats * 4;
    line = reinterpret_cast<float*>(outside + a.row_floats * 4);
    operand = line + a.line_pitch;
    rows = reinterpret_cast<const std::byte**>(operand + a.line_pitch);
    flip = Ints{} + (a.dtype == DType::s8 ? static_cast<int32_t>(0x80808080u) : 0);
    const Ints pad = pads();
    for (int64_t i = 0; i < a.row_floats; i += W) store_raw(reinterpret_cast<int32_t*>(outside) + i, Arithmetic::padding(pad));
    if (a.ops)
      for (int64_t i = 0; i < 2 * a.line_pitch; i++) line[i] = 0;
  }

  Ints pads() const { return Ints{} + static_cast<int32_t>(static_cast<uint32_t>(args.zero) * 0x01010101u); }

  void select(int64_t n, int64_t z, int64_t group) {
    image = n;
    slice = z;
    channel = group * kMost * W;
    lanes = least(kMost * W, a.channels - channel);
    vectors = ceil_div(lanes, W);
    weights = args.weights + group * kMost * a.kernel[1] * args.together * kVectorBytes;
    alignas(64) float scales[kMost * W] = {}, biases[kMost * W] = {};
    alignas(64) int32_t starts[kMost * W] = {};
    bool numbers = true;
    const Affine& q = a.output_affine;
    for (int64_t l = 0; l < lanes; l++) {
      scales[l] = a.scales[channel + l];
      biases[l] = a.bias ? a.bias[channel + l] : 0.0f;
      starts[l] = -args.zero * args.weight_sums[channel + l];
      numbers &= biases[l] == biases[l];
    }
    direct = numbers && a.ops == 0 && is_code(a.output_dtype);
    const float unit = direct ? q.inverse : 1.0f;
    low = all(a.low * unit);
    high = all(a.high * unit);
    if (direct) {
      const float lowest = static_cast<float>(lowest_code(a.output_dtype)) - q.zero_point;
      const Floats first = all(lowest), last = all(lowest + 255.0f);
      low = least_or(last, most_or(first, low));
      high = least_or(last, most_or(first, high));
      added = static_cast<int32_t>(q.zero_point);
    }
    for (int v = 0; v < kMost; v++) {
      start[v] = load_raw<W>(starts + v * W);
      scale[v] = load<W>(scales + v * W) * unit;
      bias[v] = load<W>(biases + v * W) * unit;
    }
  }

  // The row that is spread out of one of x, from column `left` on.
  template <int Vectors>
  void spread_row(int64_t row, int64_t left, std::byte* to) const {
    const auto* from =
        static_cast<const std::byte*>(a.x) + image * a.in_map.image + slice * a.in_map.spatial[0] + row * a.in_map.spatial[1] + channel;
    const int64_t width = a.in_size[2], apart = a.in_map.spatial[2], bytes = lanes;
    const Ints pad = pads();
    const auto column = [&](int64_t x) __attribute__((always_inline)) {
      return x < 0 || x >= width ? pad : ordered_bytes(from + x * apart, bytes) ^ flip;
    };
    const int64_t entries = a.row_floats / (W * kMost);
    const auto put = [&](auto& parts) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) store_raw(reinterpret_cast<int32_t*>(to) + v * W, parts[v]);
      to += Vectors * kVectorBytes;
    };
    Arithmetic::spread(column, left, entries, a.stride[2], a.dilation[2], put);
  }

  // Results `apart` elements apart: codes, where To is bytes, else floats.
  template <int Vectors, int Tile, class To>
  void sum_tile(int64_t first, To* to, int64_t apart) const {
    constexpr int64_t pitch = Vectors * kVectorBytes;
    Ints sum[Vectors][Tile];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++)
#pragma GCC unroll 14
      for (int t = 0; t < Tile; t++) sum[v][t] = start[v];
    const std::byte* w = weights;
    for (int64_t r = 0; r < a.kernel[1]; r++) {
      const std::byte* x = rows[r] + first * pitch;
      for (int64_t k = 0; k < args.together; k++, x += args.apart * pitch) {
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; v++, w += kVectorBytes) {
          const Ints weight = load_raw<W>(reinterpret_cast<const int32_t*>(w));
#pragma GCC unroll 14
          for (int t = 0; t < Tile; t++)
            Arithmetic::add(sum[v][t], load_raw<W>(reinterpret_cast<const int32_t*>(x + t * pitch + v * kVectorBytes)), weight);
        }
      }
    }
    to += first * apart;
#pragma GCC unroll 14
    for (int t = 0; t < Tile; t++, to += apart) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) {
        const Floats y = least_or(high, most_or(low, fma(__builtin_convertvector(sum[v][t], Floats), scale[v], bias[v])));
        if constexpr (sizeof(To) == 4) {
          store<W>(to + v * W, y);
        } else if (v + 1 < Vectors) {
          store_low_bytes(to + v * W, nearest(y) + added);
        } else {
          store_low_bytes(to + v * W, nearest(y) + added, lanes - v * W);
        }
      }
    }
  }

  template <int Vectors, class To, int Tile = widest(Vectors)>
  void sum_some(int64_t tile, int64_t first, To* to, int64_t apart) const {
    if (tile == Tile) return sum_tile<Vectors, Tile>(first, to, apart);
    if constexpr (Tile > 1) sum_some<Vectors, To, Tile - 1>(tile, first, to, apart);
  }

  template <int Vectors, class To>
  void sum_row(int64_t columns, To* to, int64_t apart) const {
    const int64_t tiles = ceil_div(columns, widest(Vectors));
    for (int64_t tile = 0; tile < tiles; tile++) {
      const Range some = share(columns, tile, tiles);
      sum_some<Vectors>(some.end - some.begin, some.begin, to, apart);
    }
  }

  // The last instruction of the epilogue on a row of results, and their way out.
  template <class To, class F>
  void put_as(int64_t columns, void* output, F f) const {
    auto* to = static_cast<To*>(output);
    const float* from = line;
    for (int64_t j = 0; j < columns; j++, to += a.out_map.spatial[2]) {
      for (int64_t c = 0; c < vectors * W; c += W, from += W) {
        const Floats y = f(load<W>(from));
        if (lanes - c >= W) {
          store_as(to + c, y, a.output_affine);
        } else {
          To each[W];
          store_as(each, y, a.output_affine);
          __builtin_memcpy(to + c, each, static_cast<size_t>(lanes - c) * sizeof(To));
        }
      }
    }
  }

  template <class F>
  void put(int64_t columns, void* output, F f) const {
    switch (a.output_dtype) {
      case DType::u8: return put_as<uint8_t>(columns, output, f);
      case DType::s8: return put_as<int8_t>(columns, output, f);
      case DType::bf16: return put_as<uint16_t>(columns, output, f);
      default: return put_as<float>(columns, output, f);
    }
  }

  // The epilogue of a row of results. The two activations that follow depthwise convolutions most need no pass of their own.
  void finish(int64_t y, int64_t x, int64_t columns) const {
    const int64_t pitch = vectors * W;
    const PointwiseKind last = a.ops ? a.op[a.ops - 1].instruction.kind : PointwiseKind::copy;
    const bool fused = last == PointwiseKind::hardswish || last == PointwiseKind::silu;
    for (int i = 0; i < a.ops - fused; i++) {
      const DepthwiseOp& op = a.op[i];
      if (op.binary) {
        const DepthwiseMap& map = op.map;
        const int64_t at = image * map.image + channel * map.lane + slice * map.spatial[0] + y * map.spatial[1] + x * map.spatial[2];
        for (int64_t j = 0; j < columns; j++)
          load(operand + j * pitch, advance(op.operand, at + j * map.spatial[2], op.dtype), op.dtype, op.affine, map.lane, lanes);
      }
      execute(op.instruction, line, line, operand, columns * pitch);
    }
    void* output = target(y, x);
    if (last == PointwiseKind::silu) return put(columns, output, [](Floats x) { return silu(x); });
    if (fused) return put(columns, output, [](Floats x) { return x * least_or(all(6.0f), most_or(all(0.0f), x + 3.0f)) * (1.0f / 6.0f); });
    put(columns, output, [](Floats x) { return x; });
  }

  void* target(int64_t y, int64_t x) const {
    const DepthwiseMap& map = a.out_map;
    return advance(a.output, image * map.image + channel + slice * map.spatial[0] + y * map.spatial[1] + x * map.spatial[2],
                   a.output_dtype);
  }

  template <int Vectors>
  void run(Range outputs, Range columns) {
    const int64_t left = columns.begin * a.stride[2] - a.padding[2], count = columns.end - columns.begin;
    const int64_t row_bytes = a.row_floats * 4;
    const bool done = a.ops == 0 && a.output_dtype == DType::f32 && lanes == Vectors * W;  // floats that need no more than to be stored
    int64_t missing = 0;                                                                   // the first row of x that is not spread yet
    for (int64_t y = outputs.begin; y < outputs.end; y++) {
      const int64_t top = y * a.stride[1] - a.padding[1];
      for (int64_t row = larger(missing, top); row < least(top + a.span, a.in_size[1]); row++)
        spread_row<Vectors>(row, left, ring + row % a.span * row_bytes);
      missing = larger(missing, top + a.span);
      for (int64_t h = 0; h < a.kernel[1]; h++) {
        const int64_t row = top + h * a.dilation[1];
        rows[h] = row < 0 || row >= a.in_size[1] ? outside : ring + row % a.span * row_bytes;
      }
      void* to = target(y, columns.begin);
      if (direct) {
        sum_row<Vectors>(count, static_cast<std::byte*>(to), a.out_map.spatial[2]);
      } else if (done) {
        sum_row<Vectors>(count, static_cast<float*>(to), a.out_map.spatial[2]);
      } else {
        sum_row<Vectors>(count, line, Vectors * W);
        finish(y, columns.begin, count);
      }
    }
  }

  void run(Range outputs, Range columns) {
    switch (vectors) {
      case 1: return run<1>(outputs, columns);
      case 2: return run<2>(outputs, columns);
      case 3: return run<3>(outputs, columns);
      default: return run<4>(outputs, columns);
    }
  }
};

template <class Arithmetic>
void convolve_codes(const DepthwiseCodesArgs& args) {
  const DepthwiseArgs& a = args.common;
  const int64_t groups = ceil_div(a.channels, depthwise_codes_vectors * kFloats);
  const int64_t items = a.batch * a.out_size[0] * a.row_parts * a.column_parts * groups;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const Range mine = share(items, omp_get_thread_num(), omp_get_num_threads());
    CodesPart<Arithmetic> part(args, a.scratch + omp_get_thread_num() * a.thread_bytes);
    for (int64_t item = mine.begin; item < mine.end; item++) {
      int64_t rest = item / groups;
      const Range columns = share(a.out_size[2], rest % a.column_parts, a.column_parts);
      rest /= a.column_parts;
      const Range outputs = share(a.out_size[1], rest % a.row_parts, a.row_parts);
      rest /= a.row_parts;
      part.select(rest / a.out_size[0], rest % a.out_size[0], item % groups);
      part.run(outputs, columns);
    }
  }
}

void depthwise_codes_dot(const DepthwiseCodesArgs& args);

}  // namespace drystone::DRYSTONE_ISA
