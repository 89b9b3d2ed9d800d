// Max and average pooling over any windows, float32, bfloat16 and codes (sums in float32), a NaN in a window being its maximum.
//
// channels_last and blocked: vectors of neighbouring channels, up to four of them accumulated in registers while the window is
// walked; threads share the output rows, and the groups of vectors where there are few rows (global pooling). An average sums each row of
// its window by itself first, which keeps long float32 sums accurate.
// plain: the rows of a window are combined into one line first (vectors along the columns), then the columns of the line; a window
// too wide for a line is reduced in place.
//
// Maxima with their places, by torch's rules: of equal values the first in the order of the window counts, of several NaN the last; a
// window of nothing but -inf has its maximum at its first element.
// channels_last: vectors of channels as above, with their places in registers, output by output. What the next output reads is prefetched:
// a window leaps between as many places in memory as it has rows (128 channels, 32 x 32 x 32, windows of 2 x 2 x 2, one thread: 1.16 ->
// 0.55 ms). plain: vectors of neighbouring windows of a row, up to four at once; what they reach over outside of the row is masked out of
// the loads and counts as -inf, so that no window is an exception. (Rows copied into a buffer with a border would be read back across the
// edges of the stores, which stalls: half as fast.)
// 64 x 16 x 56 x 56 on two cores, windows of 2 x 2 x 2 and 3 x 3 x 3: plain 8 and 9 times torch's speed, channels_last 1.7 and 2.1 times.
#include "kernels/pool.h"

#include <immintrin.h>

#include "kernels/codes.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t kLine = 2048;      // floats in a line: 8 KB of stack
constexpr int64_t kWideWindow = 32;  // columns from which a window is reduced along the row instead

template <bool Max>
constexpr float start_value() {
  return Max ? -__builtin_inff() : 0.0f;
}

// What is at an address of the input: of codes, their distances from the zero point.
template <int W, class T>
inline Vector<float, W> values(const PoolArgs& a, const T* from) {
  if constexpr (sizeof(T) == 1) return load<W>(from) - a.in_affine.zero_point;
  return load<W>(from);
}
template <class T>
inline float value(const PoolArgs& a, const T* from) {
  if constexpr (sizeof(T) == 1) return load_one(from) - a.in_affine.zero_point;
  return load_one(from);
}

template <int W, class T>
inline void put(const PoolArgs& a, T* to, const Vector<float, W>& x) {
  if constexpr (sizeof(T) > 1) {
    store<W>(to, x);
  } else if constexpr (W == kFloats) {
    store_as(to, x * a.in_affine.scale, a.out_affine);
  } else {
    float some[W];
    store<W>(some, x * a.in_affine.scale);
    store_codes(to, some, a.out_affine, 1, W);
  }
}
template <class T>
inline void put_one(const PoolArgs& a, T* to, float x) {
  if constexpr (sizeof(T) > 1) {
    store_one(to, x);
  } else {
    const float scaled = x * a.in_affine.scale;
    store_codes(to, &scaled, a.out_affine, 1, 1);
  }
}

// acc (op) v; a NaN in either stays.
template <bool Max, class V>
inline V combine(const V& acc, const V& v) {
  if constexpr (Max) {
    return (v > acc) | (v != v) ? v : acc;
  } else {
    return acc + v;
  }
}

inline int64_t divisor_of(const PoolArgs& a, int64_t d, int64_t h, int64_t w) {
  return a.divisor_override > 0 ? a.divisor_override : a.divisors[0][d] * a.divisors[1][h] * a.divisors[2][w];
}

// The average of a window without elements is 0, as in torch.
inline float divide(float sum, int64_t divisor) { return divisor ? sum / static_cast<float>(divisor) : 0.0f; }

// `Count` vectors of `W` channels at `in_lane` and `out_lane`, over a row of outputs.
template <bool Max, int W, int Count, class T>
void channels_row(const PoolArgs& a, const T* in, T* out, int64_t d, int64_t h, const int64_t* in_lane, const int64_t* out_lane) {
  using V = Vector<float, W>;
  const PoolWindow planes = a.windows[0][d], rows = a.windows[1][h];
  for (int64_t w = 0; w < a.out_size[2]; w++) {
    const PoolWindow columns = a.windows[2][w];
    V total[Count];
    for (int k = 0; k < Count; k++) total[k] = V{} + start_value<Max>();
    for (int64_t z = planes.start; z < planes.stop; z += planes.step) {
      for (int64_t y = rows.start; y < rows.stop; y += rows.step) {
        const T* line = in + z * a.in_stride[0] + y * a.in_stride[1];
        V row[Count];
        for (int k = 0; k < Count; k++) row[k] = Max ? total[k] : V{};
        for (int64_t x = columns.start; x < columns.stop; x += columns.step)
          for (int k = 0; k < Count; k++) row[k] = combine<Max>(row[k], values<W>(a, line + x * a.in_stride[2] + in_lane[k]));
        for (int k = 0; k < Count; k++) total[k] = Max ? row[k] : total[k] + row[k];
      }
    }
    T* to = out + w * a.out_stride[2];
    if constexpr (!Max) {
      const int64_t divisor = divisor_of(a, d, h, w);
      for (int k = 0; k < Count; k++) total[k] = divisor ? total[k] / static_cast<float>(divisor) : V{};
    }
    for (int k = 0; k < Count; k++) put<W>(a, to + out_lane[k], total[k]);
  }
}

template <bool Max, int W, class T>
void channels_pool(const PoolArgs& a) {
  constexpr int group = 4;
  const int64_t per_block = (a.block + W - 1) / W, vectors = a.blocks * per_block, groups = (vectors + group - 1) / group;
  const int64_t planes = a.out_size[0], rows = a.out_size[1];
  const int64_t items = a.batch * planes * rows * groups;
  const bool rows_inner = a.blocks > 1;  // as they lie in memory
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t item = 0; item < items; item++) {
    int64_t rest = item, g, d, h;
    if (rows_inner) {
      h = rest % rows, rest /= rows;
      d = rest % planes, rest /= planes;
      g = rest % groups, rest /= groups;
    } else {
      g = rest % groups, rest /= groups;
      h = rest % rows, rest /= rows;
      d = rest % planes, rest /= planes;
    }
    const T* in = static_cast<const T*>(a.input) + rest * a.in_batch_stride;
    T* out = static_cast<T*>(a.output) + rest * a.out_batch_stride + d * a.out_stride[0] + h * a.out_stride[1];
    int64_t in_lane[group], out_lane[group];
    const int64_t count = least(group, vectors - g * group);
    for (int64_t k = 0; k < count; k++) {
      const int64_t vector = g * group + k, block = vector / per_block;
      // The last vector of a block reaches back over its neighbour where it would not be full; both store the same.
      const int64_t lane = least(vector % per_block * W, a.block - W);
      in_lane[k] = block * a.in_block_stride + lane;
      out_lane[k] = block * a.out_block_stride + lane;
    }
    switch (count) {
      case 1: channels_row<Max, W, 1>(a, in, out, d, h, in_lane, out_lane); break;
      case 2: channels_row<Max, W, 2>(a, in, out, d, h, in_lane, out_lane); break;
      case 3: channels_row<Max, W, 3>(a, in, out, d, h, in_lane, out_lane); break;
      default: channels_row<Max, W, 4>(a, in, out, d, h, in_lane, out_lane);
    }
  }
}

// One output of a wide window.
template <bool Max, class T>
float reduce_window(const PoolArgs& a, const T* in, const PoolWindow& planes, const PoolWindow& rows, const PoolWindow& columns) {
  constexpr int width = kFloats;
  using V = Vector<float, width>;
  float total = start_value<Max>();
  for (int64_t z = planes.start; z < planes.stop; z += planes.step) {
    for (int64_t y = rows.start; y < rows.stop; y += rows.step) {
      const T* line = in + z * a.in_stride[0] + y * a.in_stride[1];
      float row = start_value<Max>();
      int64_t x = columns.start;
      if (columns.step == 1 && a.in_stride[2] == 1 && columns.stop - x >= width) {
        V lanes = V{} + start_value<Max>();
        for (; x + width <= columns.stop; x += width) lanes = combine<Max>(lanes, values<width>(a, line + x));
        float parts[width];
        store<width>(parts, lanes);
        for (int half = width / 2; half > 0; half /= 2)
          for (int i = 0; i < half; i++) parts[i] = combine<Max>(parts[i], parts[i + half]);
        row = parts[0];
      }
      for (; x < columns.stop; x += columns.step) row = combine<Max>(row, value(a, line + x * a.in_stride[2]));
      total = combine<Max>(total, row);
    }
  }
  return total;
}

// Columns [first, last) of the input, the rows of the window combined.
template <bool Max, class T>
void combine_rows(const PoolArgs& a, const T* in, const PoolWindow& planes, const PoolWindow& rows, int64_t first, int64_t count,
                  float* line) {
  for (int64_t x = 0; x < count; x++) line[x] = start_value<Max>();
  for (int64_t z = planes.start; z < planes.stop; z += planes.step) {
    for (int64_t y = rows.start; y < rows.stop; y += rows.step) {
      const T* from = in + z * a.in_stride[0] + y * a.in_stride[1] + first * a.in_stride[2];
      if (a.in_stride[2] == 1) {
#pragma omp simd
        for (int64_t x = 0; x < count; x++) line[x] = combine<Max>(line[x], value(a, from + x));
      } else {
        for (int64_t x = 0; x < count; x++) line[x] = combine<Max>(line[x], value(a, from + x * a.in_stride[2]));
      }
    }
  }
}

// results[i] = the window that begins at line[i * stride], for the interior.
template <bool Max, int64_t Stride>
void combine_columns(const float* line, int64_t count, int64_t taps, int64_t step, int64_t stride, float* results) {
  const int64_t apart = Stride ? Stride : stride;
#pragma omp simd
  for (int64_t i = 0; i < count; i++) results[i] = start_value<Max>();
  for (int64_t tap = 0; tap < taps; tap++) {
    const float* from = line + tap * step;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) results[i] = combine<Max>(results[i], from[i * apart]);
  }
}

template <bool Max, class T>
void store_results(const PoolArgs& a, const float* results, int64_t d, int64_t h, int64_t begin, int64_t end, T* out) {
  for (int64_t w = begin; w < end; w++) {
    float result = results[w - begin];
    if constexpr (!Max) result = divide(result, divisor_of(a, d, h, w));
    put_one(a, out + w * a.out_stride[2], result);
  }
}

template <bool Max, class T>
void plain_row(const PoolArgs& a, const T* in, T* out, int64_t d, int64_t h) {
  float line[kLine], results[kLine];
  const PoolWindow &planes = a.windows[0][d], &rows = a.windows[1][h];
  const PoolWindow* columns = a.windows[2];
  for (int64_t begin = 0; begin < a.out_size[2];) {
    if (columns[begin].stop - columns[begin].start > kWideWindow) {
      results[0] = reduce_window<Max>(a, in, planes, rows, columns[begin]);
      store_results<Max>(a, results, d, h, begin, begin + 1, out);
      begin++;
      continue;
    }
    // As many outputs as one line of input serves.
    int64_t first = columns[begin].start, last = columns[begin].stop, end = begin;
    for (; end < a.out_size[2] && end - begin < kLine; end++) {
      const int64_t low = least(first, columns[end].start), high = larger(last, columns[end].stop);
      if (high - low > kLine || columns[end].stop - columns[end].start > kWideWindow) break;
      first = low;
      last = high;
    }
    combine_rows<Max>(a, in, planes, rows, first, last - first, line);
    const int64_t inner_begin = least(end, larger(begin, a.interior_begin)), inner_end = least(end, a.interior_end);
    for (int64_t w = begin; w < end; w++) {
      if (w == inner_begin && inner_begin < inner_end) w = inner_end;
      if (w == end) break;
      float value = start_value<Max>();
      for (int64_t x = columns[w].start; x < columns[w].stop; x += columns[w].step) value = combine<Max>(value, line[x - first]);
      results[w - begin] = value;
    }
    if (inner_begin < inner_end) {
      const PoolWindow& window = columns[inner_begin];
      const int64_t taps = (window.stop - window.start + window.step - 1) / window.step;
      const auto inner = a.interior_stride == 1   ? combine_columns<Max, 1>
                         : a.interior_stride == 2 ? combine_columns<Max, 2>
                                                  : combine_columns<Max, 0>;
      inner(line + window.start - first, inner_end - inner_begin, taps, window.step, a.interior_stride, results + inner_begin - begin);
    }
    store_results<Max>(a, results, d, h, begin, end, out);
    begin = end;
  }
}

template <int W>
struct Maximum {
  using Values = Vector<float, W>;
  using Places = Vector<int32_t, W>;
  Values value;
  Places place;

  void take(const Values& v, const Places& at) {
    const Places better = (v > value) | (v != v);
    value = better ? v : value;
    place = better ? at : place;
  }

  template <class T>
  void store_to(T* output, int64_t* places) const {
    store<W>(output, value);
    store_raw(places, __builtin_convertvector(place, Vector<int64_t, W>));
  }
};

// `Count` vectors of channels of one output, which is so far into the output and the places; `ahead`: to the same input of the next one.
template <int W, int Count, class T>
void channels_window_with_places(const PoolArgs& a, const T* in, const PoolWindow& planes, const PoolWindow& rows,
                                 const PoolWindow& columns, const int64_t* lane, int64_t ahead, int64_t to) {
  using Places = typename Maximum<W>::Places;
  const auto place_of = [&](int64_t z, int64_t y, int64_t x) { return (z * a.in_size[1] + y) * a.in_size[2] + x; };
  Maximum<W> best[Count];
  const auto first = static_cast<int32_t>(place_of(planes.start, rows.start, columns.start));
  for (int k = 0; k < Count; k++) best[k] = {typename Maximum<W>::Values{} - infinity, Places{} + first};
  const int64_t channels = a.block;
  for (int64_t z = planes.start; z < planes.stop; z += planes.step) {
    for (int64_t y = rows.start; y < rows.stop; y += rows.step) {
      for (int64_t x = columns.start; x < columns.stop; x += columns.step) {
        const int64_t place = place_of(z, y, x);
        const T* from = in + place * channels;
        for (int k = 0; k < Count; k++) {
          __builtin_prefetch(from + lane[k] + ahead);
          best[k].take(load<W>(from + lane[k]), Places{} + static_cast<int32_t>(place));
        }
      }
    }
  }
  for (int k = 0; k < Count; k++) best[k].store_to(static_cast<T*>(a.output) + to + lane[k], a.places + to + lane[k]);
}

// Windows are copied: what is stored could be theirs, for all the compiler knows. One output after the other, as they lie in memory: by
// groups of channels the larger maps took twice as long.
template <int W, class T>
void channels_pool_with_places(const PoolArgs& a) {
  constexpr int group = 4;
  const int64_t planes = a.out_size[0], rows = a.out_size[1], channels = a.block;
  const int64_t ahead = a.out_size[2] > 1 ? (a.windows[2][1].start - a.windows[2][0].start) * channels : 0;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t row = 0; row < a.batch * planes * rows; row++) {
    const T* in = static_cast<const T*>(a.input) + row / rows / planes * a.in_batch_stride;
    const PoolWindow z = a.windows[0][row / rows % planes], y = a.windows[1][row % rows];
    for (int64_t column = 0; column < a.out_size[2]; column++) {
      const PoolWindow x = a.windows[2][column];
      const int64_t to = (row * a.out_size[2] + column) * channels;
      for (int64_t channel = 0; channel < channels; channel += group * W) {
        int64_t lane[group];
        const int64_t count = least(group, ceil_div(channels - channel, W));
        // The last vector reaches back over its neighbour where it would not be full; both store the same.
        for (int64_t k = 0; k < count; k++) lane[k] = least(channel + k * W, channels - W);
        switch (count) {
          case 1: channels_window_with_places<W, 1>(a, in, z, y, x, lane, ahead, to); break;
          case 2: channels_window_with_places<W, 2>(a, in, z, y, x, lane, ahead, to); break;
          case 3: channels_window_with_places<W, 3>(a, in, z, y, x, lane, ahead, to); break;
          default: channels_window_with_places<W, 4>(a, in, z, y, x, lane, ahead, to);
        }
      }
    }
  }
}

#ifdef __AVX512F__
// A bit for each of `kFloats` neighbouring columns: whether it lies within the row.
inline __mmask16 lanes_within(int64_t column, int64_t width) {
  const int64_t low = least(larger(-column, 0), kFloats), high = larger(least(width - column, kFloats), 0);
  return static_cast<__mmask16>(((uint32_t{1} << high) - 1) & ~((uint32_t{1} << low) - 1));
}
#endif

// `kFloats` neighbours of a row from `column` on, and -inf outside of the row.
inline Vector<float, kFloats> load_within(const float* row, int64_t column, int64_t width) {
  if (column >= 0 && column + kFloats <= width) return load<kFloats>(row + column);
  const Vector<float, kFloats> outside = Vector<float, kFloats>{} - infinity;
#ifdef __AVX512F__
  return _mm512_mask_loadu_ps(outside, lanes_within(column, width), row + column);
#else
  Vector<int32_t, kFloats> at;
  for (int i = 0; i < kFloats; i++) at[i] = i;
  at += static_cast<int32_t>(column);
  const Vector<int32_t, kFloats> inside = (at >= 0) & (at < static_cast<int32_t>(width));
  return inside ? (Vector<float, kFloats>)_mm256_maskload_ps(row + column, (__m256i)inside) : outside;
#endif
}

inline Vector<float, kFloats> load_within(const uint16_t* row, int64_t column, int64_t width) {
  if (column >= 0 && column + kFloats <= width) return load<kFloats>(row + column);
#ifdef __AVX512F__
  const __m256i outside = _mm256_set1_epi16(static_cast<int16_t>(0xff80));  // -inf
  const __m256i bits = _mm256_mask_loadu_epi16(outside, lanes_within(column, width), row + column);
  return (Vector<float, kFloats>)(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
#else
  Vector<float, kFloats> v;
  for (int i = 0; i < kFloats; i++) v[i] = column + i >= 0 && column + i < width ? load_one(row + column + i) : -infinity;
  return v;
#endif
}

// Every `stride`-th element from `column` on.
template <int64_t Stride, class T>
inline Vector<float, kFloats> apart(const T* row, int64_t column, int64_t width, int64_t stride) {
  constexpr int W = kFloats;
  if constexpr (Stride == 1) return load_within(row, column, width);
  Vector<float, W> v;
  if constexpr (Stride == 2) {
    Vector<int32_t, W> even;
    for (int i = 0; i < W; i++) even[i] = 2 * i;
    v = __builtin_shuffle(load_within(row, column, width), load_within(row, column + W, width), even);
  } else {
    for (int i = 0; i < W; i++) {
      const int64_t at = column + i * stride;
      v[i] = at >= 0 && at < width ? load_one(row + at) : -infinity;
    }
  }
  return v;
}

// `Count` vectors of a row of outputs, which begin at `begin`.
template <int64_t Stride, int Count, class T>
void windows_of_row(const PoolArgs& a, const T* in, const PoolWindow& planes, const PoolWindow& rows, const int64_t* begin,
                    Maximum<kFloats>* found) {
  constexpr int W = kFloats;
  using Places = typename Maximum<W>::Places;
  const int64_t width = a.in_size[2], stride = Stride ? Stride : a.column_stride;
  Places steps;
  for (int i = 0; i < W; i++) steps[i] = static_cast<int32_t>(i * stride);
  const int64_t corner = (planes.start * a.in_size[1] + rows.start) * width;
  int64_t first[Count];
  Maximum<W> best[Count];
  for (int k = 0; k < Count; k++) {
    first[k] = a.first_column + begin[k] * stride;
    best[k] = {typename Maximum<W>::Values{} - infinity, steps + static_cast<int32_t>(corner + first[k])};
    for (int64_t i = 0; i < least(W, a.out_size[2]) && first[k] + i * stride < 0; i++)
      best[k].place[i] = static_cast<int32_t>(corner + a.windows[2][begin[k] + i].start);
  }
  for (int64_t z = planes.start; z < planes.stop; z += planes.step) {
    for (int64_t y = rows.start; y < rows.stop; y += rows.step) {
      const int64_t row = (z * a.in_size[1] + y) * width;
      for (int64_t x = 0; x < a.column_taps * a.column_step; x += a.column_step)
        for (int k = 0; k < Count; k++)
          best[k].take(apart<Stride>(in + row, first[k] + x, width, stride), steps + static_cast<int32_t>(row + first[k] + x));
    }
  }
  for (int k = 0; k < Count; k++) found[k] = best[k];
}

template <int64_t Stride, class T>
void plain_row_with_places(const PoolArgs& a, const T* in, T* out, int64_t* places, int64_t d, int64_t h) {
  constexpr int W = kFloats, group = 4;
  const PoolWindow planes = a.windows[0][d], rows = a.windows[1][h];
  const int64_t size = a.out_size[2], vectors = (size + W - 1) / W;
  for (int64_t vector = 0; vector < vectors; vector += group) {
    const int64_t count = least(group, vectors - vector);
    int64_t begin[group];
    // The last vector reaches back over its neighbour where it would not be full; both store the same.
    for (int64_t k = 0; k < count; k++) begin[k] = larger(least((vector + k) * W, size - W), 0);
    Maximum<W> best[group];
    switch (count) {
      case 1: windows_of_row<Stride, 1>(a, in, planes, rows, begin, best); break;
      case 2: windows_of_row<Stride, 2>(a, in, planes, rows, begin, best); break;
      case 3: windows_of_row<Stride, 3>(a, in, planes, rows, begin, best); break;
      default: windows_of_row<Stride, 4>(a, in, planes, rows, begin, best);
    }
    if (size >= W) {
      for (int64_t k = 0; k < count; k++) best[k].store_to(out + begin[k], places + begin[k]);
    } else {
      for (int64_t i = 0; i < size; i++) {
        store_one(out + i, best[0].value[i]);
        places[i] = best[0].place[i];
      }
    }
  }
}

// As plain_row, or with places.
template <bool Max, class T>
void plain_pool(const PoolArgs& a) {
  const int64_t planes = a.out_size[0], rows = a.out_size[1], items = a.batch * a.blocks * planes * rows;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t item = 0; item < items; item++) {
    const int64_t h = item % rows, d = item / rows % planes, c = item / rows / planes % a.blocks, n = item / rows / planes / a.blocks;
    const T* in = static_cast<const T*>(a.input) + n * a.in_batch_stride + c * a.in_block_stride;
    const int64_t to = n * a.out_batch_stride + c * a.out_block_stride + d * a.out_stride[0] + h * a.out_stride[1];
    T* out = static_cast<T*>(a.output) + to;
    if constexpr (sizeof(T) > 1) {
      const auto row_with_places = a.column_stride == 1   ? plain_row_with_places<1, T>
                                   : a.column_stride == 2 ? plain_row_with_places<2, T>
                                                          : plain_row_with_places<0, T>;
      if (a.places) {
        row_with_places(a, in, out, a.places + to, d, h);
        continue;
      }
    }
    plain_row<Max>(a, in, out, d, h);
  }
}

template <bool Max, int W, class T>
void channels_pool_as(const PoolArgs& a) {
  if constexpr (sizeof(T) > 1)
    if (a.places) return channels_pool_with_places<W, T>(a);
  channels_pool<Max, W, T>(a);
}

template <bool Max, class T>
void pool_as(const PoolArgs& a) {
  if (a.block == 1) return plain_pool<Max, T>(a);
  if (a.block >= kFloats) return channels_pool_as<Max, kFloats, T>(a);
  if (a.block >= 8) return channels_pool_as<Max, 8, T>(a);
  if (a.block >= 4) return channels_pool_as<Max, 4, T>(a);
  channels_pool_as<Max, 2, T>(a);
}

}  // namespace

void pool(const PoolArgs& a) {
  switch (a.dtype) {
    case DType::bf16: return a.max ? pool_as<true, uint16_t>(a) : pool_as<false, uint16_t>(a);
    case DType::u8: return a.max ? pool_as<true, uint8_t>(a) : pool_as<false, uint8_t>(a);
    case DType::s8: return a.max ? pool_as<true, int8_t>(a) : pool_as<false, int8_t>(a);
    default: return a.max ? pool_as<true, float>(a) : pool_as<false, float>(a);
  }
}

}  // namespace drystone::DRYSTONE_ISA
