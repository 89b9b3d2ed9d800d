// Depthwise convolution over one to three axes: each channel by a kernel of its own, with bias and epilogue. float32, and bfloat16 that is
// computed in float32; channels_last, blocked and plain; any kernel, stride, dilation and padding.
//
// A vector of channels (plain: a channel) goes row by row. The rows that a row of outputs reads are copied into the first level cache,
// each once: widened to float32, with zeros for the padding at both ends, and, with a stride s, the columns of each remainder by s
// together. There every tap of every output is a constant offset from one pointer, whatever the format, stride and dilation: the
// borders need no branch, rows that lie a power of two apart do not share cache sets, and one register tile serves all: 14 vectors of
// neighbouring outputs, to which each tap adds its weight times 14 vectors from memory. Rows above and below the image are left out.
//
// Zeros stand for the padding, so what a weight that is NaN or infinite would make of them is not computed: such weights (pack()
// says so) take their outputs one by one, by the taps that lie in the image.
#include "kernels/depthwise.h"

#include <omp.h>

#include "kernels/block.h"
#include "kernels/instructions.h"
#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;
constexpr int kTile = 14;
using Lanes = Vector<float, W>;

inline int64_t offset(const DepthwiseMap& map, int64_t n, int64_t c) {
  return n * map.image + c / map.block * map.block_stride + c % map.block * map.lane;
}

// A row of the kernel, and the row of the scratch that it meets.
struct Row {
  const float* x;
  const float* weights;
};

// `Tile` vectors of results. Across: a vector of weights a tap, else one weight.
template <int Tile, bool Across>
void sum_tile(const Row* rows, int64_t count, int64_t at, const int64_t* offsets, Range taps, Lanes start, float* to, int64_t stride) {
  Lanes sum[Tile];
#pragma GCC unroll 14
  for (int t = 0; t < Tile; t++) sum[t] = start;
  for (int64_t r = 0; r < count; r++) {
    const float* weights = rows[r].weights;
    for (int64_t k = taps.begin; k < taps.end; k++) {
      const float* x = rows[r].x + at + offsets[k];
      const Lanes weight = Across ? load<W>(weights + k * W) : Lanes{} + weights[k];
#pragma GCC unroll 14
      for (int t = 0; t < Tile; t++) sum[t] += weight * load<W>(x + t * W);
    }
  }
#pragma GCC unroll 14
  for (int t = 0; t < Tile; t++) store<W>(to + t * stride, sum[t]);
}

template <bool Across, int Tile = kTile>
inline void sum_some(int64_t tile, const Row* rows, int64_t count, int64_t at, const int64_t* offsets, Range taps, Lanes start, float* to,
                     int64_t stride) {
  if (tile == Tile) return sum_tile<Tile, Across>(rows, count, at, offsets, taps, start, to, stride);
  if constexpr (Tile > 1) sum_some<Across, Tile - 1>(tile, rows, count, at, offsets, taps, start, to, stride);
}

// How many of the steps 0, step, 2 step … lie below `to`.
inline int64_t steps_below(int64_t to, int64_t step) { return to <= 0 ? 0 : ceil_div(to, step); }

// The steps at which from + i * step lies in [0, size), of the first `count`.
inline Range steps_within(int64_t from, int64_t step, int64_t size, int64_t count) {
  const int64_t end = least(steps_below(size - from, step), count);
  return {least(steps_below(-from, step), end), end};
}

// A vector of channels (Across; else a channel) of an image, and where a thread keeps what it needs of it.
template <class T, bool Across>
struct Part {
  static constexpr int unit = Across ? W : 1;  // floats a column

  const DepthwiseArgs& a;
  float *ring, *line, *operand;
  Row* rows;
  int64_t image, channel, lanes;
  int64_t lane_offset[W];
  Lanes start;
  const float* weights;

  Part(const DepthwiseArgs& args, std::byte* scratch) : a(args), ring(reinterpret_cast<float*>(scratch)) {
    line = ring + a.kernel[0] * a.span * a.row_floats;
    operand = line + a.line_floats;
    rows = reinterpret_cast<Row*>(operand + a.line_floats);
    for (int64_t i = 0; i < 2 * a.line_floats; i++) line[i] = 0;
  }

  void select(int64_t n, int64_t vector) {
    image = n;
    channel = vector * unit;
    lanes = Across ? least(W, a.channels - channel) : 1;
    alignas(64) float bias[W] = {};
    for (int64_t l = 0; l < lanes; l++) {
      lane_offset[l] = offset(a.in_map, n, (channel + l) / a.multiplier);
      if (a.bias) bias[l] = a.bias[channel + l];
    }
    start = Across ? load<W>(bias) : Lanes{} + bias[0];
    weights = a.weights + vector * a.kernel[0] * a.kernel[1] * a.kernel[2] * unit;
  }

  float* scratch_row(int64_t depth, int64_t row) const { return ring + (depth * a.span + row % a.span) * a.row_floats; }

  // Row `row` of slice `slice`, from column `left` on, which may lie outside of it.
  void copy_row(int64_t slice, int64_t row, int64_t left, float* to) const {
    const int64_t columns = a.phase / unit, step = a.stride[2], apart = a.in_map.spatial[2];
    const T* from = static_cast<const T*>(a.x) + lane_offset[0] + slice * a.in_map.spatial[0] + row * a.in_map.spatial[1];
    const T* last = from + (a.in_size[2] - 1) * apart + lanes - W;  // where a whole vector may still be read
    for (int64_t phase = 0; phase < step; phase++, to += a.phase) {
      const Range inside = steps_within(left + phase, step, a.in_size[2], columns);
      const T* x = from + (left + phase) * apart;
      for (int64_t i = 0; i < inside.begin * unit; i++) to[i] = 0;
      for (int64_t i = inside.end * unit; i < a.phase; i++) to[i] = 0;
      int64_t i = inside.begin;
      if constexpr (!Across) {
        if (step * apart == 1) {
          for (; i + W <= inside.end; i += W) store<W>(to + i, load<W>(x + i));
        }
        for (; i < inside.end; i++) to[i] = load_one(x + i * step * apart);
      } else {
        if (a.multiplier == 1)
          for (; i < inside.end && x + i * step * apart <= last; i++) store<W>(to + i * W, load<W>(x + i * step * apart));
        for (; i < inside.end; i++)
          for (int64_t l = 0; l < W; l++)
            to[i * W + l] = l < lanes ? load_one(x + i * step * apart + lane_offset[l] - lane_offset[0]) : 0.0f;
      }
    }
  }

  // A row of results, by `count` rows of x.
  void sum(int64_t count, int64_t left, int64_t columns, float* to, int64_t stride) const {
    const Range taps{0, a.kernel[2]};
    if (*a.unbounded != 0) [[unlikely]] {
      for (int64_t i = 0; i < columns; i++) {
        const Range inside = steps_within(left + i * a.stride[2], a.dilation[2], a.in_size[2], a.kernel[2]);
        sum_tile<1, Across>(rows, count, i * unit, a.tap_offsets, inside, start, to + i * (Across ? stride : 1), 0);
      }
      return;
    }
    const int64_t vectors = Across ? columns : ceil_div(columns, W), tiles = ceil_div(vectors, kTile);
    for (int64_t tile = 0; tile < tiles; tile++) {
      const Range some = share(vectors, tile, tiles);
      sum_some<Across>(some.end - some.begin, rows, count, some.begin * W, a.tap_offsets, taps, start, to + some.begin * stride, stride);
    }
  }

  // Epilogue and store of a row of results.
  void finish(int64_t z, int64_t y, int64_t x, int64_t columns, T* to) {
    for (int i = 0; i < a.ops; i++) {
      const DepthwiseOp& op = a.op[i];
      if (op.binary) {
        const int64_t at = offset(op.map, image, channel) + z * op.map.spatial[0] + y * op.map.spatial[1] + x * op.map.spatial[2];
        const void* from = advance(op.operand, at, op.dtype);
        if constexpr (Across) {
          for (int64_t j = 0; j < columns; j++)
            load(operand + j * W, advance(from, j * op.map.spatial[2], op.dtype), op.dtype, op.map.lane, lanes);
        } else {
          load(operand, from, op.dtype, op.map.spatial[2], columns);
        }
      }
      execute(op.instruction, line, line, operand, columns * unit);
    }
    const int64_t apart = a.out_map.spatial[2];
    if constexpr (!Across) return store(to, line, a.dtype, apart, columns);
    if (lanes == W) {
      for (int64_t j = 0; j < columns; j++) store<W>(to + j * apart, load<W>(line + j * W));
      return;
    }
    const int64_t written = a.out_map.block % W ? lanes : W;  // what pads a block is zero
    for (int64_t j = 0; j < columns; j++)
      for (int64_t l = 0; l < written; l++) store_one(to + j * apart + l, l < lanes ? line[j * W + l] : 0.0f);
  }

  void run(int64_t z, Range outputs, Range columns) {
    const int64_t left = columns.begin * a.stride[2] - a.padding[2], front = z * a.stride[0] - a.padding[0];
    const int64_t count = columns.end - columns.begin, apart = a.out_map.spatial[2];
    const Range slices = steps_within(front, a.dilation[0], a.in_size[0], a.kernel[0]);
    int64_t missing = 0;  // the first row of x that was not copied yet
    for (int64_t y = outputs.begin; y < outputs.end; y++) {
      const int64_t top = y * a.stride[1] - a.padding[1];
      const Range height = steps_within(top, a.dilation[1], a.in_size[1], a.kernel[1]);
      for (missing = larger(missing, top); missing < least(top + a.span, a.in_size[1]); missing++)
        for (int64_t d = slices.begin; d < slices.end; d++) copy_row(front + d * a.dilation[0], missing, left, scratch_row(d, missing));
      int64_t met = 0;
      for (int64_t d = slices.begin; d < slices.end; d++)
        for (int64_t h = height.begin; h < height.end; h++)
          rows[met++] = {scratch_row(d, top + h * a.dilation[1]), weights + (d * a.kernel[1] + h) * a.kernel[2] * unit};

      T* to = static_cast<T*>(a.output) + offset(a.out_map, image, channel) + z * a.out_map.spatial[0] + y * a.out_map.spatial[1] +
              columns.begin * apart;
      const bool whole = Across ? lanes == W : apart == 1 && count % W == 0 && *a.unbounded == 0;
      if constexpr (sizeof(T) == 4) {
        if (whole && a.ops == 0) {
          sum(met, left, count, to, Across ? apart : W);
          continue;
        }
      }
      sum(met, left, count, line, W);
      finish(z, y, columns.begin, count, to);
    }
  }
};

template <class T, bool Across>
void convolve(const DepthwiseArgs& a) {
  const int64_t vectors = Across ? ceil_div(a.channels, W) : a.channels;
  const int64_t items = a.batch * a.out_size[0] * a.row_parts * a.column_parts * vectors;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const Range mine = share(items, omp_get_thread_num(), omp_get_num_threads());
    Part<T, Across> part(a, a.scratch + omp_get_thread_num() * a.thread_bytes);
    for (int64_t item = mine.begin; item < mine.end; item++) {
      int64_t rest = item / vectors;
      const Range columns = share(a.out_size[2], rest % a.column_parts, a.column_parts);
      rest /= a.column_parts;
      const Range rows = share(a.out_size[1], rest % a.row_parts, a.row_parts);
      rest /= a.row_parts;
      part.select(rest / a.out_size[0], item % vectors);
      part.run(rest % a.out_size[0], rows, columns);
    }
  }
}

}  // namespace

void depthwise(const DepthwiseArgs& a) {
  if (a.dtype == DType::bf16) return a.across ? convolve<uint16_t, true>(a) : convolve<uint16_t, false>(a);
  a.across ? convolve<float, true>(a) : convolve<float, false>(a);
}

}  // namespace drystone::DRYSTONE_ISA
