// Linear, bilinear and trilinear interpolation, float32 and bfloat16 (computed in float32). Nearest neighbours are a copy, all else is
// resample.cpp's.
//
// channels_last and blocked: vectors of neighbouring channels, each output from its 2, 4 or 8 corners.
// plain: the input rows around an output row are mixed into one line (vectors along the columns), then the line's columns (gathers).
#include "kernels/resize.h"

#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t kLine = 4096;  // floats in a line: 16 KB of stack

// The 1, 2 or 4 input rows that an output row mixes.
template <int Rows, class T>
struct Mix {
  const T* rows[Rows];
  float weights[Rows];

  Mix(const ResizeArgs& a, const T* in, int64_t d, int64_t h) {
    const ResizeAxis &planes = a.axes[0], &lines = a.axes[1];
    for (int i = 0; i < Rows; i++) {
      rows[i] = in;
      weights[i] = 1.0f;
      if constexpr (Rows > 1) {
        rows[i] += (i & 1 ? lines.high[h] : lines.low[h]) * lines.in_stride;
        weights[i] = i & 1 ? lines.weight[h] : 1.0f - lines.weight[h];
      }
      if constexpr (Rows > 2) {
        rows[i] += (i & 2 ? planes.high[d] : planes.low[d]) * planes.in_stride;
        weights[i] *= i & 2 ? planes.weight[d] : 1.0f - planes.weight[d];
      }
    }
  }
};

template <int W, int Rows, class T>
inline void interpolate(const Mix<Rows, T>& mix, int64_t low, int64_t high, float weight, T* out) {
  using V = Vector<float, W>;
  V sum = V{};
  for (int i = 0; i < Rows; i++)
    sum += mix.weights[i] * ((1.0f - weight) * load<W>(mix.rows[i] + low) + weight * load<W>(mix.rows[i] + high));
  store<W>(out, sum);
}

template <int W, int Rows, class T>
void channels_row(const ResizeArgs& a, const T* in, T* out, int64_t d, int64_t h) {
  const Mix<Rows, T> mix(a, in, d, h);
  const ResizeAxis& columns = a.axes[2];
  for (int64_t w = 0; w < columns.out_size; w++) {
    const int64_t low = columns.low[w] * columns.in_stride, high = columns.high[w] * columns.in_stride;
    T* to = out + w * columns.out_stride;
    int64_t c = 0;
    for (; c + W <= a.block; c += W) interpolate<W>(mix, low + c, high + c, columns.weight[w], to + c);
    for (; c < a.block; c++) interpolate<1>(mix, low + c, high + c, columns.weight[w], to + c);
  }
}

template <class T>
void add_row(const T* from, float weight, bool first, int64_t count, float* line) {
  if (first) {
#pragma omp simd
    for (int64_t x = 0; x < count; x++) line[x] = weight * load_one(from + x);
  } else {
#pragma omp simd
    for (int64_t x = 0; x < count; x++) line[x] += weight * load_one(from + x);
  }
}

template <int Rows, class T>
void plain_row(const ResizeArgs& a, const T* in, T* out, int64_t d, int64_t h) {
  const Mix<Rows, T> mix(a, in, d, h);
  const ResizeAxis& columns = a.axes[2];
  float line[kLine];
  for (int64_t begin = 0; begin < columns.out_size;) {
    // Indices never fall, so that a run of outputs reads a run of inputs.
    const int32_t first = columns.low[begin];
    int64_t end = begin + 1;
    while (end < columns.out_size && columns.high[end] - first < kLine) end++;
    const int64_t count = columns.high[end - 1] - first + 1;
    for (int i = 0; i < Rows; i++) {
      const T* from = mix.rows[i] + first * columns.in_stride;
      if (columns.in_stride == 1) {
        add_row(from, mix.weights[i], i == 0, count, line);
      } else {
        for (int64_t x = 0; x < count; x++) line[x] = (i ? line[x] : 0.0f) + mix.weights[i] * load_one(from + x * columns.in_stride);
      }
    }
    // Locals: the compiler can't know that the stores leave the tables alone.
    const int32_t *low = columns.low, *high = columns.high;
    const float* weights = columns.weight;
    const int64_t stride = columns.out_stride;
    if (stride == 1) {
#pragma omp simd
      for (int64_t w = begin; w < end; w++)
        store_one(out + w, (1.0f - weights[w]) * line[low[w] - first] + weights[w] * line[high[w] - first]);
    } else {
      for (int64_t w = begin; w < end; w++)
        store_one(out + w * stride, (1.0f - weights[w]) * line[low[w] - first] + weights[w] * line[high[w] - first]);
    }
    begin = end;
  }
}

template <int Rows, class T>
void resize_rows(const ResizeArgs& a) {
  const auto row = a.block == 1         ? plain_row<Rows, T>
                   : a.block >= kFloats ? channels_row<kFloats, Rows, T>
                   : a.block >= 8       ? channels_row<8, Rows, T>
                                        : channels_row<2, Rows, T>;
  const int64_t planes = a.axes[0].out_size, rows = a.axes[1].out_size, items = a.batch * a.blocks * planes * rows;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t item = 0; item < items; item++) {
    const int64_t h = item % rows, d = item / rows % planes, c = item / rows / planes % a.blocks, n = item / rows / planes / a.blocks;
    const T* in = static_cast<const T*>(a.input) + n * a.in_batch_stride + c * a.in_block_stride;
    T* out = static_cast<T*>(a.output) + n * a.out_batch_stride + c * a.out_block_stride;
    row(a, in, out + d * a.axes[0].out_stride + h * a.axes[1].out_stride, d, h);
  }
}

template <class T>
void resize_as(const ResizeArgs& a) {
  switch (a.spatial) {
    case 1: return resize_rows<1, T>(a);
    case 2: return resize_rows<2, T>(a);
    default: return resize_rows<4, T>(a);
  }
}

}  // namespace

void resize(const ResizeArgs& a) { a.dtype == DType::bf16 ? resize_as<uint16_t>(a) : resize_as<float>(a); }

}  // namespace drystone::DRYSTONE_ISA
