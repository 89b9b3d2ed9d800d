// Bilinear and nearest sampling of images at computed places, float32 and bfloat16 (computed in float32).
//
// Places and weights of a run of outputs are computed once for all channels. channels_last and blocked: vectors of neighbouring
// channels, each output from its corners. plain: channel by channel, vectors along the outputs (gathers).
#include "kernels/grid_sample.h"

#include "kernels/vector_math.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t kRun = 128;  // outputs

// The corners of a run: offsets into the image, -1 outside of it, where 0 is read, and weights.
struct Corners {
  int32_t offsets[4][kRun];
  float weights[4][kRun];
};

// NaN becomes 0.
inline float clipped(float x, float last) { return x > 0.0f ? (x < last ? x : last) : 0.0f; }

// Coordinates from -1 to 1 as ones in pixels, brought inside where `padding` says so.
void to_pixels(float* x, int64_t count, int64_t size, const GridSampleArgs& a) {
  const float length = static_cast<float>(size), last = length - 1.0f, span = a.align_corners ? last : length;
  const float low = a.align_corners ? 0.0f : -0.5f;
#pragma omp simd
  for (int64_t i = 0; i < count; i++) x[i] = (x[i] + 1.0f) * (0.5f * span) + low;
  if (a.padding == GridPadding::reflection) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
      const float distance = absolute(x[i] - low), rest = distance - __builtin_truncf(distance / (2.0f * span)) * (2.0f * span);
      x[i] = (rest < 2.0f * span - rest ? rest : 2.0f * span - rest) + low;
    }
  }
  if (a.padding != GridPadding::zeros) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) x[i] = clipped(x[i], last);
  }
}

// Offsets of places in pixels, -1 outside of the image.
void to_offsets(const float* x, const float* y, float right, float low, int64_t count, const GridSampleArgs& a, int32_t* offsets) {
  const float columns = static_cast<float>(a.size[1]), rows = static_cast<float>(a.size[0]);
  const int32_t column_stride = static_cast<int32_t>(a.in_stride[1]), row_stride = static_cast<int32_t>(a.in_stride[0]);
#pragma omp simd
  for (int64_t i = 0; i < count; i++) {
    const float column = x[i] + right, row = y[i] + low;
    const bool inside = (column >= 0.0f) & (column < columns) & (row >= 0.0f) & (row < rows);
    const int32_t offset =
        static_cast<int32_t>(inside ? row : 0.0f) * row_stride + static_cast<int32_t>(inside ? column : 0.0f) * column_stride;
    offsets[i] = inside ? offset : -1;
  }
}

template <class T>
void find_corners(const GridSampleArgs& a, const T* grid, int64_t count, Corners& corners) {
  float x[kRun], y[kRun], left[kRun], top[kRun];
  for (int64_t i = 0; i < count; i++) {
    x[i] = load_one(grid + i * a.grid_stride[1]);
    y[i] = load_one(grid + i * a.grid_stride[1] + a.grid_stride[2]);
  }
  to_pixels(x, count, a.size[1], a);
  to_pixels(y, count, a.size[0], a);
  if (a.nearest) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
      x[i] = __builtin_rintf(x[i]);
      y[i] = __builtin_rintf(y[i]);
      corners.weights[0][i] = 1.0f;
    }
    return to_offsets(x, y, 0.0f, 0.0f, count, a, corners.offsets[0]);
  }
#pragma omp simd
  for (int64_t i = 0; i < count; i++) {
    left[i] = __builtin_floorf(x[i]);
    top[i] = __builtin_floorf(y[i]);
    const float right_share = x[i] - left[i], low_share = y[i] - top[i];
    corners.weights[0][i] = (1.0f - right_share) * (1.0f - low_share);
    corners.weights[1][i] = right_share * (1.0f - low_share);
    corners.weights[2][i] = (1.0f - right_share) * low_share;
    corners.weights[3][i] = right_share * low_share;
  }
  for (int corner = 0; corner < 4; corner++)
    to_offsets(left, top, corner & 1 ? 1.0f : 0.0f, corner & 2 ? 1.0f : 0.0f, count, a, corners.offsets[corner]);
}

template <int W, int Count, class T>
inline void mix(const T* in, const Corners& corners, int64_t i, T* out) {
  Vector<float, W> sum{};
  for (int corner = 0; corner < Count; corner++) {
    const int32_t offset = corners.offsets[corner][i];
    const float weight = corners.weights[corner][i];
    sum += weight * (offset < 0 ? Vector<float, W>{} : load<W>(in + offset));
  }
  store<W>(out, sum);
}

inline Floats corner_of(const float* in, Vector<int32_t, kFloats> offsets) { return gather(in, offsets); }
inline Floats corner_of(const uint16_t* in, Vector<int32_t, kFloats> offsets) {
  Floats values{};
  for (int i = 0; i < kFloats; i++)
    if (offsets[i] >= 0) values[i] = load_one(in + offsets[i]);
  return values;
}

template <int Count, class T>
void along_outputs(const GridSampleArgs& a, const T* in, const Corners& corners, T* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kFloats, out += kFloats * a.out_stride[1]) {
    Vector<int32_t, kFloats> offsets[Count];
    Floats weights[Count];
    for (int corner = 0; corner < Count; corner++) {
      offsets[corner] = load_raw<kFloats>(corners.offsets[corner] + i);
      weights[corner] = load<kFloats>(corners.weights[corner] + i);
    }
    for (int64_t c = 0; c < a.blocks; c++) {
      const T* from = in + c * a.in_block_stride;
      T* to = out + c * a.out_block_stride;
      Floats sum{};
      for (int corner = 0; corner < Count; corner++) sum += weights[corner] * corner_of(from, offsets[corner]);
      if (a.out_stride[1] == 1 && i + kFloats <= count) {
        store<kFloats>(to, sum);
      } else {
        for (int64_t j = 0; j < kFloats && i + j < count; j++) store_one(to + j * a.out_stride[1], sum[j]);
      }
    }
  }
}

template <int W, int Count, class T>
void along_channels(const GridSampleArgs& a, const T* in, const Corners& corners, T* out, int64_t count) {
  for (int64_t block = 0; block < a.blocks; block++, in += a.in_block_stride, out += a.out_block_stride)
    for (int64_t i = 0; i < count; i++) {
      int64_t c = 0;
      for (; c + W <= a.block; c += W) mix<W, Count>(in + c, corners, i, out + i * a.out_stride[1] + c);
      for (; c < a.block; c++) mix<1, Count>(in + c, corners, i, out + i * a.out_stride[1] + c);
    }
}

template <int Count, class T>
void sample(const GridSampleArgs& a) {
  const auto run = a.block == 1         ? along_outputs<Count, T>
                   : a.block >= kFloats ? along_channels<kFloats, Count, T>
                   : a.block >= 8       ? along_channels<8, Count, T>
                                        : along_channels<2, Count, T>;
  const int64_t rows = a.out_size[0], columns = a.out_size[1], runs = (columns + kRun - 1) / kRun, items = a.batch * rows * runs;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t item = 0; item < items; item++) {
    const int64_t first = item % runs * kRun, row = item / runs % rows, n = item / runs / rows;
    const int64_t count = columns - first < kRun ? columns - first : kRun;
    Corners corners;
    for (auto& offsets : corners.offsets)  // of a last vector that is not full
      for (int64_t i = count; i < count + kFloats && i < kRun; i++) offsets[i] = -1;
    find_corners(a, static_cast<const T*>(a.grid) + n * a.grid_batch_stride + row * a.grid_stride[0] + first * a.grid_stride[1], count,
                 corners);
    run(a, static_cast<const T*>(a.input) + n * a.in_batch_stride, corners,
        static_cast<T*>(a.output) + n * a.out_batch_stride + row * a.out_stride[0] + first * a.out_stride[1], count);
  }
}

template <class T>
void sample_as(const GridSampleArgs& a) {
  a.nearest ? sample<1, T>(a) : sample<4, T>(a);
}

}  // namespace

void grid_sample(const GridSampleArgs& a) { a.dtype == DType::bf16 ? sample_as<uint16_t>(a) : sample_as<float>(a); }

}  // namespace drystone::DRYSTONE_ISA
