// Depthwise convolution over one to three axes: each channel by a kernel of its own, with bias and epilogue; and convolution in groups of
// a few channels, which is the same of copies. float32, and bfloat16 and codes that are computed in float32; channels_last, blocked and
// plain (groups of several channels: not plain, not codes); any kernel, stride, dilation and padding. Sums of products of codes are exact
// there up to 514 taps, which is when they leave 24 bits, and scaled before they are stored.
//
// Vectors of channels in float32 are read where they lie. A register tile is 14 neighbouring outputs (AVX2: 7) of two vectors, to which
// each tap adds its weights times what it meets in memory; taps that meet the border leave outputs of the tile out. All sums are over
// before a result is stored, bounded (relu, clamp) on the way; other instructions run on some rows of results in the first level cache.
//
// What does not lie so goes row by row, by way of copies: bfloat16, codes, several channels or outputs a group, columns so far apart that
// they share cache sets (1024 channels, channels_last, unless a narrower tile does), and plain, in which a vector is neighbouring columns.
// Of groups there is a copy for each input of a group, which has in each lane what that of the lane's own group is. The rows
// that a row of outputs reads are copied into the first level cache, each once: as float32, with zeros for the padding at both ends, and
// with a stride s the columns of each remainder by s together. There every tap is a constant offset, whatever format, stride and dilation.
// Zeros stand for the padding, so what a weight that is NaN or infinite would make of them is not computed: such weights (pack() says so)
// take their outputs one by one, by the taps that lie in the image.
//
// Zen 4, AVX-512, one core, float32, against oneDNN 3.2: 1024 channels, kernel 31, 128 columns 0.10 ms (its kernel for one axis 3.5, as an
// image 0.16); 3x3x3 on 64 channels of 8 x 28 x 28 0.29 ms against 3.9. Images take 0.85 to 1.3 times oneDNN's time in its better format,
// with AVX2 1.1 to 1.25, and short kernels over one axis up to 1.5: the planner measures both. Zen 3, two cores, 3x3: 128 channels of
// 56 x 56 in groups of 4 at 64 GFLOP/s (oneDNN's GEMM 7 to 10), 256 of 28 x 28 in groups of 8 at 88 (oneDNN 72).
#include "kernels/depthwise.h"

#include <omp.h>

#include "kernels/codes.h"
#include "kernels/depthwise_tile.h"
#include "kernels/instructions.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;

inline int64_t offset(const DepthwiseMap& map, int64_t n, int64_t c) {
  return n * map.image + c / map.block * map.block_stride + c % map.block * map.lane;
}

// How many of the steps 0, step, 2 step … lie below `to`.
inline int64_t steps_below(int64_t to, int64_t step) { return to <= 0 ? 0 : step == 1 ? to : ceil_div(to, step); }

// The steps at which from + i * step lies in [0, size), of the first `count`.
inline Range steps_within(int64_t from, int64_t step, int64_t size, int64_t count) {
  const int64_t end = least(steps_below(size - from, step), count);
  return {least(steps_below(-from, step), end), end};
}

// A vector of channels, or two that are read where they lie (Across; else a channel) of an image, and where a thread keeps what it needs
// of it.
template <class T, bool Across>
struct Part {
  static constexpr int unit = Across ? W : 1;  // floats a column

  const DepthwiseArgs& a;
  float *ring, *line, *operand;
  DepthwiseRow* rows;
  int64_t image, channel, vectors, lanes;  // lanes: of each vector
  Range groups;                            // of the lanes, of one vector
  Vector<int32_t, W> places;               // of the first input of each lane's group, behind the first of all
  int64_t readable;                        // channels of x from there on, at most a vector
  bool neighbours;                         // whether the vector reads these alone
  DepthwiseDirect direct;
  const float* weights;

  Part(const DepthwiseArgs& args, std::byte* scratch) : a(args), ring(reinterpret_cast<float*>(scratch)) {
    line = ring + a.kernel[0] * a.span * a.inputs * a.row_floats;
    operand = line + 2 * a.line_rows * a.line_pitch;
    rows = reinterpret_cast<DepthwiseRow*>(operand + a.line_rows * a.line_pitch);
    direct.bounds = {a.scales ? 3 : a.high < infinity ? 2 : a.low > -infinity ? 1 : 0, all(a.low), all(a.high)};
    if (a.ops)
      for (int64_t i = 0; i < 3 * a.line_rows * a.line_pitch; i++) line[i] = 0;
  }

  void select(int64_t n, int64_t vector, int64_t count) {
    image = n;
    channel = vector * unit;
    vectors = count;
    lanes = Across ? least(W, a.channels - channel) : 1;
    groups = {channel / a.outputs, (channel + lanes - 1) / a.outputs + 1};
    for (int l = 0; l < W; l++)
      places[l] = static_cast<int32_t>((least(channel + l, channel + lanes - 1) / a.outputs - groups.begin) * a.inputs);
    const int64_t first = groups.begin * a.inputs, count_of_groups = groups.end - groups.begin;
    readable = least(a.channels / a.outputs * a.inputs - first, W);
    neighbours = count_of_groups > 1 && count_of_groups * a.inputs <= W && first % a.in_map.block + readable <= a.in_map.block;
    const int64_t taps = a.kernel[0] * a.kernel[1] * a.inputs * a.kernel[2];
    weights = a.weights + vector * taps * unit;
    for (int64_t v = 0; v < count; v++) {
      alignas(64) float bias[W] = {};
      for (int64_t l = 0; a.bias && l < lanes; l++) bias[l] = a.bias[channel + v * W + l];
      direct.start[v] = Across ? load<W>(bias) : all(bias[0]);
    }
    if (a.scales) {
      alignas(64) float scales[W] = {};
      for (int64_t l = 0; l < lanes; l++) scales[l] = a.scales[channel + l];
      direct.bounds.scale = Across ? load<W>(scales) : all(scales[0]);
      direct.bounds.bias = direct.start[0];
      direct.start[0] = Floats{};
    }
    direct.rows = rows;
    direct.mask = first_lanes(lanes);
    direct.width = a.kernel[2];
    direct.step = a.stride[2] * a.in_map.spatial[2];
    if (count > 1) direct.in_apart = offset(a.in_map, n, channel + W) - offset(a.in_map, n, channel);
    direct.weights_apart = taps * W;
  }

  // What is at an address of x: of codes, their distances from the zero point.
  Floats values(const T* from) const {
    if constexpr (sizeof(T) == 1) return load<W>(from) - a.zero;
    return load<W>(from);
  }
  float value(const T* from) const {
    if constexpr (sizeof(T) == 1) return load_one(from) - a.zero;
    return load_one(from);
  }

  const T* source_row(int64_t slice, int64_t row, int64_t input) const {
    return static_cast<const T*>(a.x) + offset(a.in_map, image, input) + slice * a.in_map.spatial[0] + row * a.in_map.spatial[1];
  }
  float* scratch_row(int64_t depth, int64_t row) const { return ring + (depth * a.span + row % a.span) * a.inputs * a.row_floats; }

  // Row `row` of slice `slice`, from column `left` on, which may lie outside of it: for each input of a group, in each lane that of the
  // lane's own.
  void copy_row(int64_t slice, int64_t row, int64_t left, float* to) const {
    const int64_t columns = a.phase / unit, step = a.stride[2];
    for (int64_t phase = 0; phase < step; phase++, to += a.phase) {
      const Range inside = steps_within(left + phase, step, a.in_size[2], columns);
      for (int64_t input = 0; input < a.inputs; input++) {
        float* copy = to + input * a.row_floats;
        for (int64_t i = 0; i < inside.begin * unit; i++) copy[i] = 0;
        for (int64_t i = inside.end * unit; i < a.phase; i++) copy[i] = 0;
      }
      if constexpr (Across) {
        int64_t input = 0;
        for (; input + 4 <= a.inputs; input += 4) copy_lanes<4>(slice, row, input, left + phase, inside, to + input * a.row_floats);
        for (; input < a.inputs; input++) copy_lanes<1>(slice, row, input, left + phase, inside, to + input * a.row_floats);
      } else {
        copy_columns(slice, row, left + phase, inside, to);
      }
    }
  }

  void copy_columns(int64_t slice, int64_t row, int64_t left, Range inside, float* to) const {
    const int64_t step = a.stride[2] * a.in_map.spatial[2];
    const T* x = source_row(slice, row, groups.begin) + left * a.in_map.spatial[2];
    int64_t i = inside.begin;
    if (step == 1) {
      for (; i + W <= inside.end; i += W) store<W>(to + i, values(x + i));
    }
    for (; i < inside.end; i++) to[i] = value(x + i * step);
  }

  // `Inputs` of them, from `input` on. Not inlined, where it would lack registers.
  template <int Inputs>
  __attribute__((noinline)) void copy_lanes(int64_t slice, int64_t row, int64_t input, int64_t left, Range inside, float* to) const {
    const int64_t apart = a.in_map.spatial[2], step = a.stride[2] * apart;
    const auto each = [](auto body) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int i = 0; i < Inputs; i++) body(i);
    };
    float* copies[Inputs];
    each([&](int i) { copies[i] = to + i * a.row_floats; });
    const auto copy = [&](Range columns, auto lanes_at) __attribute__((always_inline)) {
      for (int64_t column = columns.begin; column < columns.end; column++)
        each([&](int i) { store<W>(copies[i] + column * W, lanes_at(i, column * step, copies[i] + column * W)); });
    };
    if (neighbours) {
      const T* x = source_row(slice, row, groups.begin * a.inputs) + left * apart;
      // Where a whole vector may still be read.
      const int64_t room = (a.in_size[2] - 1 - left) * apart + readable - W;
      const int64_t end = larger(inside.begin, least(inside.end, room < 0 ? 0 : room / larger(step, 1) + 1));
      Vector<int32_t, W> from[Inputs];
      each([&](int i) { from[i] = places + static_cast<int32_t>(input + i); });
      if (a.inputs * a.outputs == 1) {
        copy({inside.begin, end}, [=, this](int, int64_t at, float*) { return values(x + at); });
      } else {
        copy({inside.begin, end}, [=, this](int i, int64_t at, float*) { return __builtin_shuffle(values(x + at), from[i]); });
      }
      inside.begin = end;
    }
    if (inside.begin >= inside.end) return;
    for (int64_t group = groups.begin; group < groups.end; group++) {
      const T* x[Inputs];
      each([&](int i) { x[i] = source_row(slice, row, group * a.inputs + input + i) + left * apart; });
      const Mask before = places < static_cast<int32_t>((group - groups.begin) * a.inputs);
      if (group == groups.begin) {
        copy(inside, [=, this](int i, int64_t at, float*) { return all(value(x[i] + at)); });
      } else {
        copy(inside, [=, this](int i, int64_t at, float* held) { return before ? load<W>(held) : all(value(x[i] + at)); });
      }
    }
  }

  // A row of results from the copies of `count` rows of x; the first tap of the first result is at column `left`.
  void sum(int64_t count, int64_t left, int64_t columns, float* to, int64_t stride) const {
    DepthwiseCopied t{rows, count, a.runs, a.run_count, a.apart, 0, stride, direct.start[0], direct.bounds};
    if (*a.unbounded != 0) [[unlikely]] {
      for (int64_t i = 0; i < columns; i++) {
        const Range inside = steps_within(left + i * a.stride[2], a.dilation[2], a.in_size[2], a.kernel[2]);
        t.runs = a.single_taps + inside.begin;
        t.run_count = inside.end - inside.begin;
        t.at = i * unit;
        sum_copies<Across>(1, t, to + i * (Across ? stride : 1));
      }
      return;
    }
    const int64_t results = Across ? columns : ceil_div(columns, W), tiles = ceil_div(results, kCopiedTile<Across>);
    for (int64_t tile = 0; tile < tiles; tile++) {
      const Range some = share(results, tile, tiles);
      t.at = some.begin * W;
      sum_copies<Across>(some.end - some.begin, t, to + some.begin * stride);
    }
  }

  void sum_in_place(int64_t count, Range tiles, float* to, int64_t stride, int64_t apart) {
    direct.count = count;
    direct.stride = stride;
    direct.out_apart = apart;
    const int64_t width = a.out_size[2], all = a.tiles;
    for (int64_t tile = tiles.begin; tile < tiles.end; tile++) {
      const Range some = share(width, tile, all);
      direct.at = (some.begin * a.stride[2] - a.padding[2]) * a.in_map.spatial[2];
      const DepthwiseTap* taps = a.taps + a.tile_kinds[tile] * a.kernel[2];
      float* first = to;
      to += (some.end - some.begin) * stride;
      const int64_t tile_columns = some.end - some.begin;
      if (vectors == 2) {
        sum_directly<2, false>(tile_columns, direct, taps, first);
      } else if (lanes == W) {
        sum_directly<1, false>(tile_columns, direct, taps, first);
      } else {
        sum_directly<1, true>(tile_columns, direct, taps, first);
      }
    }
  }

  // Epilogue and store of `count` rows of results of a vector that begins with channel c.
  void finish(int64_t z, int64_t y, int64_t count, int64_t x, int64_t columns, int64_t c, float* line) {
    const int64_t pitch = a.line_pitch;
    for (int i = 0; i < a.ops; i++) {
      const DepthwiseOp& op = a.op[i];
      if (op.binary) {
        const DepthwiseMap& map = op.map;
        const int64_t at = offset(map, image, c) + z * map.spatial[0] + y * map.spatial[1] + x * map.spatial[2];
        for (int64_t r = 0; r < count; r++) {
          const void* from = advance(op.operand, at + r * map.spatial[1], op.dtype);
          if constexpr (Across) {
            const bool whole = op.dtype == DType::f32 && map.lane == 1 && lanes == W;
            for (int64_t j = 0; j < columns; j++) {
              float* to = operand + r * pitch + j * W;
              if (whole) {
                store<W>(to, load<W>(static_cast<const float*>(from) + j * map.spatial[2]));
              } else {
                load(to, advance(from, j * map.spatial[2], op.dtype), op.dtype, op.affine, map.lane, lanes);
              }
            }
          } else {
            load(operand + r * pitch, from, op.dtype, op.affine, map.spatial[2], columns);
          }
        }
      }
      execute(op.instruction, line, line, operand, (count - 1) * pitch + columns * unit);
    }
    for (int64_t r = 0; r < count; r++) store_row(line + r * pitch, columns, target(c, z, y + r, x));
  }

  void store_row(const float* from, int64_t columns, void* to) const {
    if constexpr (!Across) return store(to, from, a.output_dtype, a.output_affine, a.out_map.spatial[2], columns);
    switch (a.output_dtype) {
      case DType::bf16: return store_row_as(from, columns, static_cast<uint16_t*>(to));
      case DType::u8: return store_row_as(from, columns, static_cast<uint8_t*>(to));
      case DType::s8: return store_row_as(from, columns, static_cast<int8_t*>(to));
      default: return store_row_as(from, columns, static_cast<float*>(to));
    }
  }

  template <class To>
  void store_row_as(const float* from, int64_t columns, To* to) const {
    const int64_t apart = a.out_map.spatial[2];
    const Affine q = a.output_affine;
    if (lanes == W) {
      for (int64_t j = 0; j < columns; j++) store_as(to + j * apart, load<W>(from + j * W), q);
      return;
    }
    const bool blocked = a.out_map.block % W == 0;  // what pads a block is zero
    for (int64_t j = 0; j < columns; j++) {
      const Floats x = load<W>(from + j * W);
      if constexpr (sizeof(To) == 4) {
        blocked ? store<W>(to + j * apart, direct.mask ? x : Floats{}) : store_some(to + j * apart, x, direct.mask);
      } else {
        To each[W];
        store_as(each, x, q);
        for (int64_t l = 0; l < lanes; l++) to[j * apart + l] = each[l];
        for (int64_t l = lanes; blocked && l < W; l++) to[j * apart + l] = 0;
      }
    }
  }

  void* target(int64_t c, int64_t z, int64_t y, int64_t x) const {
    const DepthwiseMap& map = a.out_map;
    return advance(a.output, offset(map, image, c) + z * map.spatial[0] + y * map.spatial[1] + x * map.spatial[2], a.output_dtype);
  }

  // tiles: the columns, where x is read directly.
  void run(int64_t z, Range outputs, Range columns, Range tiles) {
    const int64_t left = columns.begin * a.stride[2] - a.padding[2], front = z * a.stride[0] - a.padding[0];
    const int64_t count = columns.end - columns.begin, apart = a.out_map.spatial[2];
    const Range slices = steps_within(front, a.dilation[0], a.in_size[0], a.kernel[0]);
    const bool in_place = a.direct;
    const int64_t out_apart = vectors > 1 ? offset(a.out_map, image, channel + W) - offset(a.out_map, image, channel) : 0;
    // Whether results need no more than to be stored.
    const bool done = sizeof(T) == 4 && a.ops == 0 && (Across ? lanes == W : apart == 1 && count % W == 0 && *a.unbounded == 0);
    int64_t missing = 0;  // the first row of x that was not copied yet
    int64_t held = 0;     // rows of results
    for (int64_t y = outputs.begin; y < outputs.end; y++) {
      const int64_t top = y * a.stride[1] - a.padding[1];
      const Range height = steps_within(top, a.dilation[1], a.in_size[1], a.kernel[1]);
      int64_t met = 0;
      for (int64_t d = slices.begin; d < slices.end; d++) {
        const int64_t slice = front + d * a.dilation[0];
        if (!in_place)
          for (int64_t row = larger(missing, top); row < least(top + a.span, a.in_size[1]); row++)
            copy_row(slice, row, left, scratch_row(d, row));
        for (int64_t h = height.begin; h < height.end; h++) {
          const int64_t row = top + h * a.dilation[1];
          const float* x = in_place ? reinterpret_cast<const float*>(source_row(slice, row, channel)) : scratch_row(d, row);
          const float* of_row = weights + (d * a.kernel[1] + h) * a.inputs * a.kernel[2] * unit;
          for (int64_t i = 0; i < a.inputs; i++) rows[met++] = {x + i * a.row_floats, of_row + i * a.kernel[2] * unit};
        }
      }
      missing = larger(missing, top + a.span);
      float* to = done ? static_cast<float*>(target(channel, z, y, columns.begin)) : line + held * a.line_pitch;
      const int64_t stride = done && Across ? apart : W, lines = a.line_rows * a.line_pitch;
      in_place ? sum_in_place(met, tiles, to, stride, done ? out_apart : lines) : sum(met, left, count, to, stride);
      if (!done && (++held == a.line_rows || y + 1 == outputs.end)) {
        for (int64_t v = 0; v < vectors; v++) finish(z, y + 1 - held, held, columns.begin, count, channel + v * W, line + v * lines);
        held = 0;
      }
    }
  }
};

template <class T, bool Across>
void convolve(const DepthwiseArgs& a) {
  const int64_t vectors = Across ? ceil_div(a.channels, W) : a.channels, whole = a.channels / W;  // vectors without a lane to spare
  const int64_t together = a.direct ? 2 : 1, sets = ceil_div(vectors, together);
  const int64_t items = a.batch * a.out_size[0] * a.row_parts * a.column_parts * sets;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const Range mine = share(items, omp_get_thread_num(), omp_get_num_threads());
    Part<T, Across> part(a, a.scratch + omp_get_thread_num() * a.thread_bytes);
    for (int64_t item = mine.begin; item < mine.end; item++) {
      int64_t rest = item / sets;
      const Range tiles = share(a.tiles, rest % a.column_parts, a.column_parts);
      const Range columns = a.direct
                                ? Range{share(a.out_size[2], tiles.begin, a.tiles).begin, share(a.out_size[2], tiles.end - 1, a.tiles).end}
                                : share(a.out_size[2], rest % a.column_parts, a.column_parts);
      rest /= a.column_parts;
      const Range rows = share(a.out_size[1], rest % a.row_parts, a.row_parts);
      rest /= a.row_parts;
      const int64_t end = least(vectors, (item % sets + 1) * together);
      for (int64_t vector = item % sets * together, count; vector < end; vector += count) {
        count = vector + together <= whole ? together : 1;
        part.select(rest / a.out_size[0], vector, count);
        part.run(rest % a.out_size[0], rows, columns, tiles);
      }
    }
  }
}

}  // namespace

void depthwise(const DepthwiseArgs& a) {
  switch (a.dtype) {
    case DType::bf16: return a.across ? convolve<uint16_t, true>(a) : convolve<uint16_t, false>(a);
    case DType::u8: return a.across ? convolve<uint8_t, true>(a) : convolve<uint8_t, false>(a);
    case DType::s8: return a.across ? convolve<int8_t, true>(a) : convolve<int8_t, false>(a);
    default: return a.across ? convolve<float, true>(a) : convolve<float, false>(a);
  }
}

}  // namespace drystone::DRYSTONE_ISA
