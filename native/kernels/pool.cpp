// Max and average pooling over any windows, float32 and bfloat16 (sums in float32), a NaN in a window being its maximum.
//
// channels_last and blocked: vectors of neighbouring channels, up to four of them accumulated in registers while the window is
// walked; threads share the output rows, and the groups of vectors where there are few rows (global pooling). An average sums each row of
// its window by itself first, which keeps long float32 sums accurate.
// plain: the rows of a window are combined into one line first (vectors along the columns), then the columns of the line; a window
// too wide for a line is reduced in place.
#include "kernels/pool.h"

#include "kernels/block.h"
#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t kLine = 2048;      // floats in a line: 8 KB of stack
constexpr int64_t kWideWindow = 32;  // columns from which a window is reduced along the row instead

template <bool Max>
constexpr float start_value() {
  return Max ? -__builtin_inff() : 0.0f;
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
          for (int k = 0; k < Count; k++) row[k] = combine<Max>(row[k], load<W>(line + x * a.in_stride[2] + in_lane[k]));
        for (int k = 0; k < Count; k++) total[k] = Max ? row[k] : total[k] + row[k];
      }
    }
    T* to = out + w * a.out_stride[2];
    if constexpr (!Max) {
      const int64_t divisor = divisor_of(a, d, h, w);
      for (int k = 0; k < Count; k++) total[k] = divisor ? total[k] / static_cast<float>(divisor) : V{};
    }
    for (int k = 0; k < Count; k++) store<W>(to + out_lane[k], total[k]);
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
        for (; x + width <= columns.stop; x += width) lanes = combine<Max>(lanes, load<width>(line + x));
        float parts[width];
        store<width>(parts, lanes);
        for (int half = width / 2; half > 0; half /= 2)
          for (int i = 0; i < half; i++) parts[i] = combine<Max>(parts[i], parts[i + half]);
        row = parts[0];
      }
      for (; x < columns.stop; x += columns.step) row = combine<Max>(row, load_one(line + x * a.in_stride[2]));
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
        for (int64_t x = 0; x < count; x++) line[x] = combine<Max>(line[x], load_one(from + x));
      } else {
        for (int64_t x = 0; x < count; x++) line[x] = combine<Max>(line[x], load_one(from + x * a.in_stride[2]));
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
    float value = results[w - begin];
    if constexpr (!Max) value = divide(value, divisor_of(a, d, h, w));
    store_one(out + w * a.out_stride[2], value);
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

template <bool Max, class T>
void plain_pool(const PoolArgs& a) {
  const int64_t planes = a.out_size[0], rows = a.out_size[1], items = a.batch * a.blocks * planes * rows;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t item = 0; item < items; item++) {
    const int64_t h = item % rows, d = item / rows % planes, c = item / rows / planes % a.blocks, n = item / rows / planes / a.blocks;
    const T* in = static_cast<const T*>(a.input) + n * a.in_batch_stride + c * a.in_block_stride;
    T* out = static_cast<T*>(a.output) + n * a.out_batch_stride + c * a.out_block_stride + d * a.out_stride[0] + h * a.out_stride[1];
    plain_row<Max>(a, in, out, d, h);
  }
}

template <bool Max, class T>
void pool_as(const PoolArgs& a) {
  if (a.block == 1) return plain_pool<Max, T>(a);
  if (a.block >= kFloats) return channels_pool<Max, kFloats, T>(a);
  if (a.block >= 8) return channels_pool<Max, 8, T>(a);
  if (a.block >= 4) return channels_pool<Max, 4, T>(a);
  channels_pool<Max, 2, T>(a);
}

}  // namespace

void pool(const PoolArgs& a) {
  if (a.dtype == DType::bf16) return a.max ? pool_as<true, uint16_t>(a) : pool_as<false, uint16_t>(a);
  return a.max ? pool_as<true, float>(a) : pool_as<false, float>(a);
}

}  // namespace drystone::DRYSTONE_ISA
