// Resizes of two axes by any taps and weights of each output index: bicubic, and those that avoid aliasing. float32 and bfloat16
// (computed in float32).
//
// As both axes are weighed by themselves, the input rows around an output row are mixed into one line first, of which its columns are
// made then. channels_last and blocked: vectors of neighbouring channels. plain: vectors along the columns, by gathers.
#include "kernels/resize.h"
#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t kLine = 4096;  // floats in a line: 16 KB of stack

// One output, straight from the input.
template <int W, class T>
Vector<float, W> direct(const ResampleArgs& a, const T* in, int64_t h, int64_t w) {
  Vector<float, W> sum{};
  for (int64_t s = h; s < a.rows.taps * a.rows.out_size && a.rows.index[s] >= 0; s += a.rows.out_size) {
    const T* row = in + a.rows.index[s] * a.rows.in_stride;
    Vector<float, W> mixed{};
    for (int64_t t = w; t < a.columns.taps * a.columns.out_size && a.columns.index[t] >= 0; t += a.columns.out_size)
      mixed += a.columns.weight[t] * load<W>(row + a.columns.index[t] * a.columns.in_stride);
    sum += a.rows.weight[s] * mixed;
  }
  return sum;
}

// The end of the outputs from `begin` on that read no more than `room` inputs between them; `begin` where one reads more.
inline int64_t run_end(const ResampleAxis& columns, int64_t begin, int64_t room) {
  int64_t end = begin;
  while (end < columns.out_size && columns.high[end] - columns.low[begin] < room) end++;
  return end;
}

template <int W, class T>
void channels(const ResampleArgs& a, const T* in, T* out, int64_t h) {
  using V = Vector<float, W>;
  const ResampleAxis &rows = a.rows, &columns = a.columns;
  const int64_t row_taps = rows.taps * rows.out_size, column_taps = columns.taps * columns.out_size;
  V line[kLine / W];
  for (int64_t begin = 0; begin < columns.out_size;) {
    const int64_t end = run_end(columns, begin, kLine / W), first = columns.low[begin];
    if (end == begin) {
      store<W>(out + begin * columns.out_stride, direct<W>(a, in, h, begin));
      begin++;
      continue;
    }
    for (int64_t x = first; x <= columns.high[end - 1]; x++) {
      V sum{};
      for (int64_t s = h; s < row_taps && rows.index[s] >= 0; s += rows.out_size)
        sum += rows.weight[s] * load<W>(in + rows.index[s] * rows.in_stride + x * columns.in_stride);
      line[x - first] = sum;
    }
    for (int64_t w = begin; w < end; w++) {
      V sum{};
      for (int64_t t = w; t < column_taps && columns.index[t] >= 0; t += columns.out_size)
        sum += columns.weight[t] * line[columns.index[t] - first];
      store<W>(out + w * columns.out_stride, sum);
    }
    begin = end;
  }
}

template <class T>
void channels_row(const ResampleArgs& a, const T* in, T* out, int64_t h) {
  int64_t c = 0;
  for (; c + kFloats <= a.block; c += kFloats) channels<kFloats>(a, in + c, out + c, h);
  for (; c + 8 <= a.block; c += 8) channels<8>(a, in + c, out + c, h);
  for (; c + 2 <= a.block; c += 2) channels<2>(a, in + c, out + c, h);
  for (; c < a.block; c++) channels<1>(a, in + c, out + c, h);
}

template <class T>
void plain_row(const ResampleArgs& a, const T* in, T* out, int64_t h) {
  const ResampleAxis &rows = a.rows, &columns = a.columns;
  float line[kLine], sums[kLine];
  for (int64_t begin = 0; begin < columns.out_size;) {
    int64_t end = run_end(columns, begin, kLine);
    if (end == begin) {
      store_one(out + begin * columns.out_stride, direct<1>(a, in, h, begin)[0]);
      begin++;
      continue;
    }
    if (end > begin + kLine) end = begin + kLine;
    const int64_t first = columns.low[begin], count = columns.high[end - 1] - first + 1;
    for (int64_t x = 0; x < count; x++) line[x] = 0.0f;
    for (int64_t s = h; s < rows.taps * rows.out_size && rows.index[s] >= 0; s += rows.out_size) {
      const T* from = in + rows.index[s] * rows.in_stride + first * columns.in_stride;
      const float weight = rows.weight[s];
      if (columns.in_stride == 1) {
#pragma omp simd
        for (int64_t x = 0; x < count; x++) line[x] += weight * load_one(from + x);
      } else {
        for (int64_t x = 0; x < count; x++) line[x] += weight * load_one(from + x * columns.in_stride);
      }
    }
    const int64_t made = end - begin;
    for (int64_t w = 0; w < made; w++) sums[w] = 0.0f;
    for (int64_t t = 0; t < columns.taps; t++) {
      const int32_t* index = columns.index + t * columns.out_size + begin;
      const float* weight = columns.weight + t * columns.out_size + begin;
#pragma omp simd
      for (int64_t w = 0; w < made; w++) sums[w] += index[w] < 0 ? 0.0f : weight[w] * line[index[w] < 0 ? 0 : index[w] - first];
    }
    if (columns.out_stride == 1) {
#pragma omp simd
      for (int64_t w = 0; w < made; w++) store_one(out + begin + w, sums[w]);
    } else {
      for (int64_t w = 0; w < made; w++) store_one(out + (begin + w) * columns.out_stride, sums[w]);
    }
    begin = end;
  }
}

template <class T>
void resample_as(const ResampleArgs& a) {
  const auto row = a.block == 1 ? plain_row<T> : channels_row<T>;
  const int64_t rows = a.rows.out_size, items = a.batch * a.blocks * rows;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t item = 0; item < items; item++) {
    const int64_t h = item % rows, c = item / rows % a.blocks, n = item / rows / a.blocks;
    const T* in = static_cast<const T*>(a.input) + n * a.in_batch_stride + c * a.in_block_stride;
    T* out = static_cast<T*>(a.output) + n * a.out_batch_stride + c * a.out_block_stride;
    row(a, in, out + h * a.rows.out_stride, h);
  }
}

}  // namespace

void resample(const ResampleArgs& a) { a.dtype == DType::bf16 ? resample_as<uint16_t>(a) : resample_as<float>(a); }

}  // namespace drystone::DRYSTONE_ISA
