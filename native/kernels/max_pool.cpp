// Max pooling that also tells where each maximum lies, float32 and bfloat16, by torch's rules: of equal values the first in the order
// of the window counts, of several NaN the last; a window of nothing but -inf has its maximum at its first element.
//
// channels_last: vectors of neighbouring channels, up to four of them with their places in registers while the window is walked. What
// the next output reads is prefetched: a window leaps between as many places in memory as it has rows (128 channels, 32 x 32 x 32, windows
// of 2 x 2 x 2, one thread: 1.16 -> 0.55 ms).
// plain: vectors of neighbouring windows of a row, up to four at once; what they reach over outside of the row is masked out of the
// loads and counts as -inf, so that no window is an exception. (Rows copied into a buffer with a border would be read back across the
// edges of the stores, which stalls: half as fast.)
//
// 64 x 16 x 56 x 56 on two cores, windows of 2 x 2 x 2 and 3 x 3 x 3: plain 8 and 9 times torch's speed, channels_last 1.7 and 2.1 times.
#include "kernels/max_pool.h"

#include <immintrin.h>

#include "kernels/block.h"
#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

namespace {

// Where the window of an output begins on an axis, and past its end: within the input, `dilation` apart.
struct Taps {
  int64_t start, stop;
};

inline Taps taps_of(const MaxPoolArgs& a, int axis, int64_t index) {
  const int64_t dilation = a.dilation[axis], start = index * a.stride[axis] - a.padding[axis];
  const int64_t stop = least(start + (a.window[axis] - 1) * dilation + 1, a.in_size[axis]);
  return {start < 0 ? start + (dilation - 1 - start) / dilation * dilation : start, stop};
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

// `Count` vectors of channels of one output.
template <int W, int Count, class T>
void channels_window(const MaxPoolArgs& a, const T* in, const Taps& planes, const Taps& rows, const Taps& columns, const int64_t* lane,
                     T* out, int64_t* places) {
  using Places = typename Maximum<W>::Places;
  const auto place_of = [&](int64_t z, int64_t y, int64_t x) { return (z * a.in_size[1] + y) * a.in_size[2] + x; };
  Maximum<W> best[Count];
  const auto first = static_cast<int32_t>(place_of(planes.start, rows.start, columns.start));
  for (int k = 0; k < Count; k++) best[k] = {typename Maximum<W>::Values{} - infinity, Places{} + first};
  for (int64_t z = planes.start; z < planes.stop; z += a.dilation[0]) {
    for (int64_t y = rows.start; y < rows.stop; y += a.dilation[1]) {
      for (int64_t x = columns.start; x < columns.stop; x += a.dilation[2]) {
        const int64_t place = place_of(z, y, x);
        const T* from = in + place * a.channels;
        for (int k = 0; k < Count; k++) {
          __builtin_prefetch(from + lane[k] + a.stride[2] * a.channels);  // the same of the next output
          best[k].take(load<W>(from + lane[k]), Places{} + static_cast<int32_t>(place));
        }
      }
    }
  }
  for (int k = 0; k < Count; k++) best[k].store_to(out + lane[k], places + lane[k]);
}

template <int W, class T>
void channels_pool(const MaxPoolArgs& a) {
  constexpr int group = 4;
  const int64_t planes = a.out_size[0], rows = a.out_size[1], volume = a.in_size[0] * a.in_size[1] * a.in_size[2];
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t row = 0; row < a.batch * planes * rows; row++) {
    const T* in = static_cast<const T*>(a.input) + row / rows / planes * volume * a.channels;
    const Taps z = taps_of(a, 0, row / rows % planes), y = taps_of(a, 1, row % rows);
    for (int64_t column = 0; column < a.out_size[2]; column++) {
      const Taps x = taps_of(a, 2, column);
      const int64_t to = (row * a.out_size[2] + column) * a.channels;
      T* out = static_cast<T*>(a.output) + to;
      for (int64_t channel = 0; channel < a.channels; channel += group * W) {
        int64_t lane[group];
        const int64_t count = least(group, ceil_div(a.channels - channel, W));
        // The last vector reaches back over its neighbour where it would not be full; both store the same.
        for (int64_t k = 0; k < count; k++) lane[k] = least(channel + k * W, a.channels - W);
        switch (count) {
          case 1: channels_window<W, 1>(a, in, z, y, x, lane, out, a.places + to); break;
          case 2: channels_window<W, 2>(a, in, z, y, x, lane, out, a.places + to); break;
          case 3: channels_window<W, 3>(a, in, z, y, x, lane, out, a.places + to); break;
          default: channels_window<W, 4>(a, in, z, y, x, lane, out, a.places + to);
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
void windows_of_row(const MaxPoolArgs& a, const T* in, const Taps& planes, const Taps& rows, const int64_t* begin,
                    Maximum<kFloats>* found) {
  constexpr int W = kFloats;
  using Places = typename Maximum<W>::Places;
  const int64_t width = a.in_size[2], stride = Stride ? Stride : a.stride[2];
  Places steps;
  for (int i = 0; i < W; i++) steps[i] = static_cast<int32_t>(i * stride);
  const int64_t corner = (planes.start * a.in_size[1] + rows.start) * width;
  int64_t first[Count];
  Maximum<W> best[Count];
  for (int k = 0; k < Count; k++) {
    first[k] = begin[k] * stride - a.padding[2];
    best[k] = {typename Maximum<W>::Values{} - infinity, steps + static_cast<int32_t>(corner + first[k])};
    for (int64_t i = 0; i < W && first[k] + i * stride < 0; i++)
      best[k].place[i] = static_cast<int32_t>(corner + taps_of(a, 2, begin[k] + i).start);
  }
  for (int64_t z = planes.start; z < planes.stop; z += a.dilation[0]) {
    for (int64_t y = rows.start; y < rows.stop; y += a.dilation[1]) {
      const int64_t row = (z * a.in_size[1] + y) * width;
      for (int64_t x = 0; x < a.window[2] * a.dilation[2]; x += a.dilation[2])
        for (int k = 0; k < Count; k++)
          best[k].take(apart<Stride>(in + row, first[k] + x, width, stride), steps + static_cast<int32_t>(row + first[k] + x));
    }
  }
  for (int k = 0; k < Count; k++) found[k] = best[k];
}

template <int64_t Stride, class T>
void plain_row(const MaxPoolArgs& a, const T* in, T* out, int64_t* places, int64_t d, int64_t h) {
  constexpr int W = kFloats, group = 4;
  const Taps planes = taps_of(a, 0, d), rows = taps_of(a, 1, h);
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

template <class T>
void plain_pool(const MaxPoolArgs& a) {
  const int64_t planes = a.out_size[0], rows = a.out_size[1], volume = a.in_size[0] * a.in_size[1] * a.in_size[2];
  const auto pool_row = a.stride[2] == 1 ? plain_row<1, T> : a.stride[2] == 2 ? plain_row<2, T> : plain_row<0, T>;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t row = 0; row < a.batch * a.channels * planes * rows; row++) {
    const T* in = static_cast<const T*>(a.input) + row / rows / planes * volume;
    const int64_t to = row * a.out_size[2];
    pool_row(a, in, static_cast<T*>(a.output) + to, a.places + to, row / rows % planes, row % rows);
  }
}

template <class T>
void pool_as(const MaxPoolArgs& a) {
  if (!a.channels_last || a.channels == 1) return plain_pool<T>(a);
  if (a.channels >= kFloats) return channels_pool<kFloats, T>(a);
  if (a.channels >= 8) return channels_pool<8, T>(a);
  if (a.channels >= 4) return channels_pool<4, T>(a);
  channels_pool<2, T>(a);
}

}  // namespace

void max_pool(const MaxPoolArgs& a) { a.dtype == DType::bf16 ? pool_as<uint16_t>(a) : pool_as<float>(a); }

}  // namespace drystone::DRYSTONE_ISA
