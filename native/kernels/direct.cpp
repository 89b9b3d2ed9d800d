// Direct convolution in groups of whole vectors of channels, float32, over one or two axes: channels_last, or blocked by a vector.
//
// A register tile is a few neighbouring outputs of up to three vectors of channels. A tap adds for each input of the group its weights, one
// vector after the other, times the input of each output, which is broadcast: 4 outputs of 3 vectors take 7 loads for 12 products (AVX2).
// So that taps are constant offsets, the rows of x that some rows of outputs read are copied for a group, channels innermost, with zeros
// for the padding at both ends; each number is used for all outputs of its group. Threads share the rows of all groups out as they go.
// Zeros stand for the padding, so what a weight that is NaN or infinite would make of them is not computed: such weights (pack() says so)
// take their outputs one by one, by the taps that lie in the image.
#include "kernels/direct.h"

#include <omp.h>

#include "kernels/block.h"
#include "kernels/claims.h"
#include "kernels/vector_math.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;
static_assert(sizeof(Claims::Line) == direct_claims_bytes);

// Outputs of a tile of so many vectors: sums, a vector's weights and an input fill the registers.
constexpr int outputs_of(int vectors) { return W == 16 || vectors == 1 ? 8 : vectors == 2 ? 6 : 4; }

// A row of the kernel, and the copied row that it meets.
struct Row {
  const float *x, *weights;
};

struct Tile {
  const Row* rows;
  int64_t row_count;
  Range taps;        // of each row
  int64_t inputs;    // channels
  int64_t at;        // of the first output's first tap in a row
  int64_t step;      // from an output to the next one
  int64_t tap_step;  // from a tap to the next one
  Floats low, high;
  const float* start;      // what sums begin with, null for 0
  int64_t column, vector;  // strides of the output
};

// Not inlined, where it would lack registers.
template <int Vectors, int Outputs>
__attribute__((noinline)) void sum_tile(const Tile& t, float* to) {
  Floats sum[Outputs][Vectors];
#pragma GCC unroll 8
  for (int o = 0; o < Outputs; o++)
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; v++) sum[o][v] = t.start ? load<W>(t.start + v * W) : Floats{};
  const int64_t inputs = t.inputs, step = t.step, tap_weights = inputs * Vectors * W;
  for (const Row *row = t.rows, *end = row + t.row_count; row < end; row++) {
    for (int64_t tap = t.taps.begin; tap < t.taps.end; tap++) {
      const float *weights = row->weights + tap * tap_weights, *x = row->x + t.at + tap * t.tap_step;
      const float* from[Outputs];
#pragma GCC unroll 8
      for (int o = 0; o < Outputs; o++) from[o] = x + o * step;
      for (int64_t input = 0; input < inputs; input += 8) {
        // Else the compiler keeps each from[o] + i, more than there are registers.
#pragma GCC unroll 8
        for (int o = 0; o < Outputs; o++) __asm__("" : "+r"(from[o]));
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++, weights += Vectors * W) {
          Floats weight[Vectors];
#pragma GCC unroll 3
          for (int v = 0; v < Vectors; v++) weight[v] = load<W>(weights + v * W);
#pragma GCC unroll 8
          for (int o = 0; o < Outputs; o++) {
            const Floats value = all(from[o][i]);
#pragma GCC unroll 3
            for (int v = 0; v < Vectors; v++) multiply_add(sum[o][v], value, weight[v]);
          }
        }
#pragma GCC unroll 8
        for (int o = 0; o < Outputs; o++) from[o] += 8;
      }
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < Outputs; o++, to += t.column)
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; v++) store<W>(to + v * t.vector, least_or(t.high, most_or(t.low, sum[o][v])));
}

template <int Vectors, int Outputs = outputs_of(Vectors)>
inline void sum_outputs(int64_t outputs, const Tile& t, float* to) {
  if (outputs == Outputs) return sum_tile<Vectors, Outputs>(t, to);
  if constexpr (Outputs > 1) sum_outputs<Vectors, Outputs - 1>(outputs, t, to);
}

// Which of the taps of an output, at `from` for its first one, lie in [0, size).
inline Range taps_within(int64_t from, int64_t dilation, int64_t size, int64_t taps) {
  Range inside{0, taps};
  while (inside.begin < taps && from + inside.begin * dilation < 0) inside.begin++;
  while (inside.end > inside.begin && from + (inside.end - 1) * dilation >= size) inside.end--;
  return inside;
}

// A group of an image.
class Part {
 public:
  Part(const DirectArgs& args, std::byte* scratch, int64_t image, int64_t group)
      : a(args),
        copies(reinterpret_cast<float*>(scratch)),
        rows(reinterpret_cast<Row*>(copies + copied_rows(a.band) * a.columns * a.inputs)),
        x(a.x + image * a.in_map.image + group * (a.inputs / W) * a.in_map.vector),
        weights(a.weights + group * a.kernel[1] * a.kernel[2] * a.inputs * a.outputs),
        output(a.output + image * a.out_map.image + group * (a.outputs / W) * a.out_map.vector),
        bias(a.bias ? a.bias + group * a.outputs : nullptr) {}

  // Rows [begin, end) of the output.
  void run(int64_t begin, int64_t end) const {
    const int64_t vectors = a.outputs / W, parts = ceil_div(vectors, direct_vectors);
    for (; begin < end; begin += a.band) {
      const Range band{begin, least(end, begin + a.band)};
      const int64_t top = larger(row_of(band.begin, 0), 0), bottom = least(row_of(band.end - 1, a.kernel[1] - 1) + 1, a.in_size[1]);
      for (int64_t row = top; row < bottom; row++) copy_row(row, copies + (row - top) * a.columns * a.inputs);
      for (int64_t part = 0; part < parts; part++) {
        const Range some = share(vectors, part, parts);
        if (some.end - some.begin == 1)
          sum_band<1>(band, top, some.begin);
        else if (some.end - some.begin == 2)
          sum_band<2>(band, top, some.begin);
        else
          sum_band<direct_vectors>(band, top, some.begin);
      }
    }
  }

  // Of x, that so many rows of outputs read.
  int64_t copied_rows(int64_t outputs) const { return (outputs - 1) * a.stride[1] + (a.kernel[1] - 1) * a.dilation[1] + 1; }

 private:
  const DirectArgs& a;
  float* copies;
  Row* rows;
  const float *x, *weights;
  float* output;
  const float* bias;

  int64_t row_of(int64_t output_row, int64_t kernel_row) const {
    return output_row * a.stride[1] - a.padding[1] + kernel_row * a.dilation[1];
  }

  void copy_row(int64_t row, float* to) const {
    const int64_t first = least(a.padding[2], a.columns), last = larger(first, least(a.columns, a.padding[2] + a.in_size[2]));
    __builtin_memset(to, 0, first * a.inputs * sizeof(float));
    __builtin_memset(to + last * a.inputs, 0, (a.columns - last) * a.inputs * sizeof(float));
    for (int64_t vector = 0; vector < a.inputs / W; vector++) {
      const float* from = x + vector * a.in_map.vector + row * a.in_map.row;
      float* copy = to + first * a.inputs + vector * W;
      for (int64_t column = first; column < last; column++, from += a.in_map.column, copy += a.inputs) store<W>(copy, load<W>(from));
    }
  }

  // `Vectors` from `vector` on; the copies begin with row `top`.
  template <int Vectors>
  void sum_band(Range band, int64_t top, int64_t vector) const {
    const int64_t row_weights = a.kernel[2] * a.inputs * Vectors * W, width = a.out_size[2];
    const float* from = weights + a.kernel[1] * a.kernel[2] * a.inputs * vector * W;
    const bool exact = *a.unbounded != 0;
    const int64_t tiles = exact ? width : ceil_div(width, outputs_of(Vectors));
    Tile t{};
    t.rows = rows;
    t.taps = {0, a.kernel[2]};
    t.inputs = a.inputs;
    t.step = a.stride[2] * a.inputs;
    t.tap_step = a.dilation[2] * a.inputs;
    t.low = all(a.low);
    t.high = all(a.high);
    t.start = bias ? bias + vector * W : nullptr;
    t.column = a.out_map.column;
    t.vector = a.out_map.vector;
    for (int64_t row = band.begin; row < band.end; row++) {
      t.row_count = 0;
      for (int64_t k = 0; k < a.kernel[1]; k++) {
        const int64_t met = row_of(row, k);
        if (met >= 0 && met < a.in_size[1]) rows[t.row_count++] = {copies + (met - top) * a.columns * a.inputs, from + k * row_weights};
      }
      float* to = output + vector * a.out_map.vector + row * a.out_map.row;
      for (int64_t tile = 0; tile < tiles; tile++) {
        const Range outputs = share(width, tile, tiles);
        t.at = outputs.begin * t.step;
        if (exact) t.taps = taps_within(outputs.begin * a.stride[2] - a.padding[2], a.dilation[2], a.in_size[2], a.kernel[2]);
        sum_outputs<Vectors>(outputs.end - outputs.begin, t, to + outputs.begin * a.out_map.column);
      }
    }
  }
};

}  // namespace

void direct(const DirectArgs& a) {
  const int64_t height = a.out_size[1];
  const Claims claims(reinterpret_cast<Claims::Line*>(a.scratch + a.threads * a.thread_bytes), a.batch * a.groups * height, a.band,
                      a.threads);
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const int64_t thread = omp_get_thread_num();
    for (Range rows = claims.take(thread); rows.begin < rows.end; rows = claims.take(thread)) {
      for (int64_t row = rows.begin; row < rows.end;) {
        const int64_t group = row / height, end = least(rows.end, (group + 1) * height);
        const Part part(a, a.scratch + thread * a.thread_bytes, group / a.groups, group % a.groups);
        part.run(row - group * height, end - group * height);
        row = end;
      }
    }
  }
}

}  // namespace drystone::DRYSTONE_ISA
