// Register tiles of depthwise and grouped convolutions: neighbouring outputs of one or two vectors of channels that are read where they
// lie, or of one that lies copied in the scratch, or in plain memory vectors of columns.
//
// Of copies a tap of an output meets the column that the tap before meets for the next output. So up to three taps of a row go together:
// each column is loaded once and multiplied by all of them. A load for each product would take longer than the products: Zen 3, two
// cores, tiles of 11 with three taps together 175 GFLOP/s, tiles of 14 with a load each 120. Channels that are read where they lie come
// from further away, and have too few rows to sum up for that.
#pragma once

#include "kernels/depthwise.h"
#include "kernels/vector_math.h"

namespace drystone::DRYSTONE_ISA {

using Mask = Vector<int32_t, kFloats>;

// The first lanes of a vector: all bits of theirs are set.
inline Mask first_lanes(int64_t lanes) {
  Mask mask;
  for (int l = 0; l < kFloats; l++) mask[l] = l < lanes ? -1 : 0;
  return mask;
}

// Memory behind them is not touched.
#ifdef __AVX512F__
inline Floats load_some(const float* from, Mask mask) { return (Floats)_mm512_maskz_loadu_ps(_mm512_movepi32_mask((__m512i)mask), from); }
inline void store_some(float* to, Floats x, Mask mask) { _mm512_mask_storeu_ps(to, _mm512_movepi32_mask((__m512i)mask), (__m512)x); }
#else
inline Floats load_some(const float* from, Mask mask) { return (Floats)_mm256_maskload_ps(from, (__m256i)mask); }
inline void store_some(float* to, Floats x, Mask mask) { _mm256_maskstore_ps(to, (__m256i)mask, (__m256)x); }
#endif

// A row of the kernel, and the row of x or of the scratch that it meets.
struct DepthwiseRow {
  const float* x;
  const float* weights;
};

// Between what results are kept. A NaN is.
struct DepthwiseBounds {
  int count;  // 0: not at all, 1: from low up, 3: after scale and bias
  Floats low, high, scale = {}, bias = {};
};

template <int Tile, int Vectors>
__attribute__((always_inline)) inline void store_tile(const Floats (&sum)[Tile][Vectors], const DepthwiseBounds& bounds, float* to,
                                                      int64_t stride, int64_t apart) {
  const auto each = [&](auto bounded) __attribute__((always_inline)) {
#pragma GCC unroll 14
    for (int t = 0; t < Tile; t++, to += stride)
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; v++) store<kFloats>(to + v * apart, bounded(sum[t][v]));
  };
  const Floats low = bounds.low, high = bounds.high;
  if (bounds.count == 0) return each([](Floats x) { return x; });
  if (bounds.count == 1) return each([=](Floats x) { return most_or(low, x); });
  if (bounds.count == 3) {
    const Floats scale = bounds.scale, bias = bounds.bias;
    return each([=](Floats x) { return least_or(high, most_or(low, fma(x, scale, bias))); });
  }
  each([=](Floats x) { return least_or(high, most_or(low, x)); });
}

// A tile of one or two vectors of channels that are read where they lie.
struct DepthwiseDirect {
  const DepthwiseRow* rows;
  int64_t at;                                  // of the first output's first tap in a row
  int64_t count, width;                        // of the rows, and taps of each
  int64_t step;                                // from the column of an output to the next one's
  int64_t in_apart, weights_apart, out_apart;  // from vector to vector
  int64_t stride;                              // between results
  Floats start[2];
  DepthwiseBounds bounds;
  Mask mask;
};

// Taps leave out the outputs for which their column lies outside. Some: of a vector that is not whole.
template <int Tile, int Vectors, bool Some>
void sum_direct(const DepthwiseDirect& d, const DepthwiseTap* taps, float* to) {
  Floats sum[Tile][Vectors];
#pragma GCC unroll 14
  for (int t = 0; t < Tile; t++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) sum[t][v] = d.start[v];
  const int64_t step = d.step, in_apart = d.in_apart;
  [[maybe_unused]] const Mask mask = d.mask;
  for (int64_t r = 0; r < d.count; r++) {
    const float* weights = d.rows[r].weights;
    for (int64_t k = 0; k < d.width; k++, weights += kFloats) {
      const float* x = d.rows[r].x + d.at + taps[k].offset;
      Floats weight[Vectors];
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; v++) weight[v] = load<kFloats>(weights + v * d.weights_apart);
      const auto add = [&](int t) __attribute__((always_inline)) {
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; v++) sum[t][v] += weight[v] * (Some ? load_some(x, mask) : load<kFloats>(x + v * in_apart));
      };
      if (taps[k].end - taps[k].begin >= Tile) {
#pragma GCC unroll 14
        for (int t = 0; t < Tile; t++) {
          add(t);
          x += step;
          __asm__("" : "+r"(x));  // else the compiler keeps all multiples of step, more than there are registers
        }
      } else {
#pragma GCC unroll 14
        for (int t = 0; t < Tile; t++) {
          if (t >= taps[k].begin && t < taps[k].end) add(t);
          x += step;
          __asm__("" : "+r"(x));
        }
      }
    }
  }
  store_tile(sum, d.bounds, to, d.stride, d.out_apart);
}

template <int Vectors, bool Some, int Tile = depthwise_tile(kFloats)>
inline void sum_directly(int64_t tile, const DepthwiseDirect& d, const DepthwiseTap* taps, float* to) {
  if (tile == Tile) return sum_direct<Tile, Vectors, Some>(d, taps, to);
  if constexpr (Tile > 1) sum_directly<Vectors, Some, Tile - 1>(tile, d, taps, to);
}

// A row of copies that a vector of results is summed from.
struct DepthwiseCopied {
  const DepthwiseRow* rows;
  int64_t row_count;
  const DepthwiseRun* runs;
  int64_t run_count;
  int64_t apart;   // floats from the weights of a tap to those of the next one of a run
  int64_t at;      // of the first output's first tap in a row
  int64_t stride;  // between results
  Floats start;
  DepthwiseBounds bounds;
};

template <int Taps, int Outputs>
__attribute__((always_inline)) inline void add_run(Floats (&sum)[Outputs][1], const DepthwiseCopied& t, const DepthwiseRun& run) {
  const int64_t at = t.at + run.offset, tap = run.tap * kFloats, apart = t.apart;
  for (const DepthwiseRow *row = t.rows, *end = row + t.row_count; row < end; row++) {
    const float *x = row->x + at, *weights = row->weights + tap;
    Floats weight[Taps];
#pragma GCC unroll 3
    for (int k = 0; k < Taps; k++) weight[k] = load<kFloats>(weights + k * apart);
#pragma GCC unroll 16
    for (int c = 0; c < Outputs + Taps - 1; c++) {
      const Floats met = load<kFloats>(x + c * kFloats);
#pragma GCC unroll 3
      for (int k = 0; k < Taps; k++)
        if (c >= k && c - k < Outputs) multiply_add(sum[c - k][0], weight[k], met);
    }
  }
}

// Not inlined, where it would lack registers.
template <int Outputs>
__attribute__((noinline)) void sum_copied(const DepthwiseCopied& t, float* to) {
  static_assert(depthwise_most_taps == 3);
  Floats sum[Outputs][1];
#pragma GCC unroll 14
  for (int i = 0; i < Outputs; i++) sum[i][0] = t.start;
  for (const DepthwiseRun *run = t.runs, *end = run + t.run_count; run < end; run++) {
    if (run->taps == 3) {
      add_run<3>(sum, t, *run);
    } else if (run->taps == 2) {
      add_run<2>(sum, t, *run);
    } else {
      add_run<1>(sum, t, *run);
    }
  }
  store_tile(sum, t.bounds, to, t.stride, 0);
}

// `Vectors` of neighbouring columns of a channel, whose runs are single taps.
template <int Vectors>
__attribute__((noinline)) void sum_columns(const DepthwiseCopied& t, float* to) {
  Floats sum[Vectors][1];
#pragma GCC unroll 14
  for (int i = 0; i < Vectors; i++) sum[i][0] = t.start;
  for (const DepthwiseRow *row = t.rows, *end = row + t.row_count; row < end; row++) {
    for (const DepthwiseRun *run = t.runs, *last = run + t.run_count; run < last; run++) {
      const float* x = row->x + t.at + run->offset;
      const Floats weight = all(row->weights[run->tap]);
#pragma GCC unroll 14
      for (int i = 0; i < Vectors; i++) sum[i][0] += weight * load<kFloats>(x + i * kFloats);
    }
  }
  store_tile(sum, t.bounds, to, kFloats, 0);
}

template <bool Across>
constexpr int kCopiedTile = !Across || kFloats == 16 ? 14 : 11;

template <bool Across, int Results = kCopiedTile<Across>>
inline void sum_copies(int64_t results, const DepthwiseCopied& t, float* to) {
  if (results == Results) {
    if constexpr (Across) return sum_copied<Results>(t, to);
    return sum_columns<Results>(t, to);
  }
  if constexpr (Results > 1) sum_copies<Across, Results - 1>(results, t, to);
}

}  // namespace drystone::DRYSTONE_ISA
