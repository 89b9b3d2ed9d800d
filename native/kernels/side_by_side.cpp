// Convolution, transposed or not, with a stride of the kernel's size and no padding, float32, plain memory in and out. It is one product.
// Transposed: x is (channels, positions) as it lies, and the weights have a row for each output channel and place of the window; else
// the weights have a row for each output channel, and x one of positions for each channel and place of the window. What oneDNN spends on
// reorders to channels_last and back, and on maps that are read or written tap by tap, falls away.
//
// A strip of positions, put together in order, is multiplied with all rows before the next one: 8 rows times 3 vectors (AVX2: 4 times
// 3) in registers. Rows that are neighbours in the window are shuffled into runs of neighbours of the wide map, or out of them. Of weights
// beyond the second level cache some strips are multiplied together.
//
// Zen 5, AVX-512, two cores, transposed, 128 to 128 channels, windows of 2x2x2, 32x32x32 positions: 20.6 ms, 417 GFLOP/s; oneDNN 3.2's
// in channels_last 20.4, and 8.5 for reorders.
#include "kernels/side_by_side.h"

#include <omp.h>

#include "kernels/block.h"
#include "kernels/streams.h"
#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats, kRows = side_by_side_tile(W).rows, kStrip = side_by_side_tile(W).positions, kVectors = kStrip / W;

int64_t window_of(const SideBySideArgs& a) { return a.window_depth * a.window_height * a.window_width; }
int64_t rows_of(const SideBySideArgs& a) { return a.out_channels * (a.transposed ? window_of(a) : 1); }
int64_t summands_of(const SideBySideArgs& a) { return a.in_channels * (a.transposed ? 1 : window_of(a)); }

// Groups of rows: [group][summand][row], rows that do not exist are 0.
void pack(const SideBySideArgs& a, Range groups) {
  const int64_t rows = rows_of(a), summands = summands_of(a);
  const int64_t row_stride = a.transposed ? 1 : summands, summand_stride = a.transposed ? rows : 1;
  for (int64_t g = groups.begin; g < groups.end; g++) {
    const int64_t some = least(kRows, rows - g * kRows);
    for (int64_t k = 0; k < summands; k++) {
      float* to = a.scratch + (g * summands + k) * kRows;
      const float* from = a.weights + k * summand_stride + g * kRows * row_stride;
      for (int r = 0; r < kRows; r++) to[r] = r < some ? from[r * row_stride] : 0;
    }
  }
}

// Positions whose windows run on in a row of the wide map: where in the strip, how many, and where the first window starts in a channel.
struct Segment {
  int64_t begin, count, offset;
};

struct Strip {
  int64_t image, first, count;  // positions
  const float* x;               // [summand][kStrip]
  int64_t segments;
  Segment segment[kStrip];
};

void find_segments(const SideBySideArgs& a, Strip& strip) {
  strip.segments = 0;
  for (int64_t at = 0; at < strip.count;) {
    const int64_t column = (strip.first + at) % a.width, row = (strip.first + at) / a.width,
                  some = least(a.width - column, strip.count - at);
    const int64_t line = row / a.height * a.window_depth * a.wide_height + row % a.height * a.window_height;
    strip.segment[strip.segments++] = {at, some, line * a.wide_width + column * a.window_width};
    at += some;
  }
}

// Where row `row` of the windows of an image starts: of a channel, a slice of the window and a line of it.
int64_t line_of_window(const SideBySideArgs& a, int64_t row) {
  const int64_t plane = row / a.window_height, h = row % a.window_height, c = plane / a.window_depth, d = plane % a.window_depth;
  return ((c * a.wide_depth + d) * a.wide_height + h) * a.wide_width;
}

void copy_positions(const SideBySideArgs& a, const Strip& strip, float* to) {
  const int64_t positions = a.depth * a.height * a.width;
  const float* from = a.x + strip.image * a.in_channels * positions + strip.first;
  for (int64_t c = 0; c < a.in_channels; c++, from += positions, to += kStrip) {
    if (strip.count == kStrip) {
      for (int j = 0; j < kVectors; j++) store<W>(to + j * W, load<W>(from + j * W));
    } else {
      for (int i = 0; i < kStrip; i++) to[i] = i < strip.count ? from[i] : 0;
    }
  }
}

template <int width>
void collect_windows(const SideBySideArgs& a, const Strip& strip, float* to) {
  const int64_t lines = a.in_channels * a.window_depth * a.window_height;
  const float* image = a.x + strip.image * a.in_channels * a.wide_depth * a.wide_height * a.wide_width;
  for (int64_t row = 0; row < lines; row++, to += width * kStrip) {
    const float* line = image + line_of_window(a, row);
    for (int64_t s = 0; s < strip.segments; s++) {
      const Segment& segment = strip.segment[s];
      const float* from = line + segment.offset;
      float* at = to + segment.begin;
      for (int64_t i = 0; i < segment.count; i++)
        for (int w = 0; w < width; w++) at[w * kStrip + i] = from[i * width + w];
    }
    for (int w = 0; w < width; w++)
      for (int64_t i = strip.count; i < kStrip; i++) to[w * kStrip + i] = 0;
  }
}

// sums [row][kStrip], which hold what is added to.
void multiply(const float* w, const float* x, int64_t summands, float* sums) {
  Floats sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) sum[r][j] = load<W>(sums + r * kStrip + j * W);
  for (int64_t k = 0; k < summands; k++, w += kRows, x += kStrip) {
    Floats v[kVectors];
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) v[j] = load<W>(x + j * W);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++)
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) sum[r][j] += v[j] * w[r];
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++)
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) store<W>(sums + r * kStrip + j * W, sum[r][j]);
}

void put_run(const SideBySideArgs& a, float* to, const float* from, int64_t count) {
  const auto* source = reinterpret_cast<const char*>(from);
  auto* target = reinterpret_cast<char*>(to);
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  a.streams ? stream_bytes(target, source, bytes) : copy_short(target, source, bytes);
}

// A group of rows of a strip.
template <int width>
void spread_windows(const SideBySideArgs& a, const Strip& strip, int64_t group, const float* sums) {
  const int64_t rows = rows_of(a);
  float* image = a.output + strip.image * a.out_channels * a.wide_depth * a.wide_height * a.wide_width;
  for (int r = 0; r < kRows && group * kRows + r < rows; r += width, sums += width * kStrip) {
    alignas(64) float run[kStrip * width];
    for (int i = 0; i < kStrip; i++)
      for (int w = 0; w < width; w++) run[i * width + w] = sums[w * kStrip + i];
    float* line = image + line_of_window(a, (group * kRows + r) / width);
    for (int64_t s = 0; s < strip.segments; s++) {
      const Segment& segment = strip.segment[s];
      put_run(a, line + segment.offset, run + segment.begin * width, segment.count * width);
    }
  }
}

void put_positions(const SideBySideArgs& a, const Strip& strip, int64_t group, const float* sums) {
  const int64_t positions = a.depth * a.height * a.width;
  float* to = a.output + (strip.image * a.out_channels + group * kRows) * positions + strip.first;
  for (int64_t r = 0; r < least(kRows, a.out_channels - group * kRows); r++) put_run(a, to + r * positions, sums + r * kStrip, strip.count);
}

// Windows that are `width` wide.
template <int width>
void convolve(const SideBySideArgs& a) {
  const int64_t positions = a.depth * a.height * a.width, image_strips = ceil_div(positions, kStrip), strips = a.batch * image_strips;
  const int64_t groups = ceil_div(rows_of(a), kRows), summands = summands_of(a), channel_rows = a.transposed ? window_of(a) : 1;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    pack(a, share(groups, thread, threads));
#pragma omp barrier
    // Few strips: the rows are shared out.
    const bool by_rows = strips < 2 * threads;
    const Range mine = by_rows ? Range{0, strips} : share(strips, thread, threads);
    const Range rows = by_rows ? share(groups, thread, threads) : Range{0, groups};
    float* copies = a.scratch + a.packed_floats + thread * a.strip_floats;
    alignas(64) float sums[kRows * kStrip];
    Strip strip[side_by_side_strips];
    for (int64_t next = mine.begin; next < mine.end; next += a.block_strips) {
      const int64_t count = least(a.block_strips, mine.end - next);
      for (int64_t s = 0; s < count; s++) {
        const int64_t first = (next + s) % image_strips * kStrip;
        float* copy = copies + s * summands * kStrip;
        strip[s].image = (next + s) / image_strips;
        strip[s].first = first;
        strip[s].count = least(kStrip, positions - first);
        strip[s].x = copy;
        find_segments(a, strip[s]);
        a.transposed ? copy_positions(a, strip[s], copy) : collect_windows<width>(a, strip[s], copy);
      }
      for (int64_t g = rows.begin; g < rows.end; g++) {
        for (int64_t s = 0; s < count; s++) {
          for (int r = 0; r < kRows; r++) {
            const int64_t c = least((g * kRows + r) / channel_rows, a.out_channels - 1);
            for (int i = 0; i < kStrip; i++) sums[r * kStrip + i] = a.bias ? a.bias[c] : 0;
          }
          multiply(a.scratch + g * summands * kRows, strip[s].x, summands, sums);
          a.transposed ? spread_windows<width>(a, strip[s], g, sums) : put_positions(a, strip[s], g, sums);
        }
      }
    }
    if (a.streams) finish_streams();
  }
}

}  // namespace

void side_by_side(const SideBySideArgs& a) {
  switch (a.window_width) {
    case 1: return convolve<1>(a);
    case 2: return convolve<2>(a);
    default: return convolve<4>(a);
  }
}

}  // namespace drystone::DRYSTONE_ISA
