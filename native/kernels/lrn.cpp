// Local response normalisation across channels, float32 and bfloat16 (computed in float32).
//
// The squares of a window are summed anew for each output: windows are short, and sums that are kept up by adding and taking away
// lose digits. Vectors run along whichever of channels and positions are neighbours in memory.
#include "kernels/lrn.h"

#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t kTile = 256;

// x^beta, by square roots for the exponents in use.
enum class Power { half, three_quarters, one, any };

template <Power P>
inline float power(float x, float beta) {
  if constexpr (P == Power::half) return __builtin_sqrtf(x);
  if constexpr (P == Power::three_quarters) return __builtin_sqrtf(x) * __builtin_sqrtf(__builtin_sqrtf(x));
  if constexpr (P == Power::one) return x;
  return __builtin_powf(x, beta);
}

template <Power P, class T>
void normalise(const LrnArgs& a, const float* sums, const T* in, int64_t in_stride, T* out, int64_t out_stride, int64_t count) {
  const float scale = a.alpha / static_cast<float>(a.size);
  if (in_stride == 1 && out_stride == 1) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) store_one(out + i, load_one(in + i) / power<P>(a.k + scale * sums[i], a.beta));
  } else {
    for (int64_t i = 0; i < count; i++)
      store_one(out + i * out_stride, load_one(in + i * in_stride) / power<P>(a.k + scale * sums[i], a.beta));
  }
}

template <class T>
void add_squares(const T* in, int64_t stride, int64_t begin, int64_t end, float* sums) {
  if (stride == 1) {
#pragma omp simd
    for (int64_t i = begin; i < end; i++) sums[i] += load_one(in + i) * load_one(in + i);
  } else {
    for (int64_t i = begin; i < end; i++) sums[i] += load_one(in + i * stride) * load_one(in + i * stride);
  }
}

inline int64_t clamped(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

// A tile of positions, vectors along them: plain.
template <Power P, class T>
void along_positions(const LrnArgs& a, const T* in, T* out, int64_t count) {
  float sums[kTile];
  for (int64_t c = 0; c < a.channels; c++) {
    for (int64_t i = 0; i < count; i++) sums[i] = 0.0f;
    const int64_t begin = clamped(c - a.size / 2, 0, a.channels), end = clamped(c + (a.size - 1) / 2 + 1, 0, a.channels);
    for (int64_t other = begin; other < end; other++) add_squares(in + other * a.in_channel_stride, a.in_stride[2], 0, count, sums);
    normalise<P>(a, sums, in + c * a.in_channel_stride, a.in_stride[2], out + c * a.out_channel_stride, a.out_stride[2], count);
  }
}

// One position, vectors along its channels: channels_last.
template <Power P, class T>
void along_channels(const LrnArgs& a, const T* in, T* out) {
  float sums[kTile];
  for (int64_t first = 0; first < a.channels; first += kTile) {
    const int64_t count = a.channels - first < kTile ? a.channels - first : kTile;
    for (int64_t i = 0; i < count; i++) sums[i] = 0.0f;
    for (int64_t shift = -(a.size / 2); shift <= (a.size - 1) / 2; shift++) {
      const int64_t begin = clamped(-first - shift, 0, count), end = clamped(a.channels - first - shift, 0, count);
      add_squares(in + (first + shift) * a.in_channel_stride, a.in_channel_stride, begin, end, sums);
    }
    normalise<P>(a, sums, in + first * a.in_channel_stride, a.in_channel_stride, out + first * a.out_channel_stride, a.out_channel_stride,
                 count);
  }
}

template <Power P, class T>
void lrn_tiles(const LrnArgs& a) {
  const bool channels_inner = a.in_channel_stride == 1 && a.channels > 1;
  const int64_t tile = channels_inner ? 1 : kTile, tiles = (a.extent[2] + tile - 1) / tile;
  const int64_t planes = a.extent[0], rows = a.extent[1], items = a.batch * planes * rows * tiles;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.threads > 1)
  for (int64_t item = 0; item < items; item++) {
    const int64_t first = item % tiles * tile, row = item / tiles % rows, plane = item / tiles / rows % planes;
    const int64_t n = item / tiles / rows / planes;
    const T* in = static_cast<const T*>(a.input) + n * a.in_batch_stride;
    in += plane * a.in_stride[0] + row * a.in_stride[1] + first * a.in_stride[2];
    T* out = static_cast<T*>(a.output) + n * a.out_batch_stride;
    out += plane * a.out_stride[0] + row * a.out_stride[1] + first * a.out_stride[2];
    if (channels_inner) {
      along_channels<P>(a, in, out);
    } else {
      along_positions<P>(a, in, out, a.extent[2] - first < tile ? a.extent[2] - first : tile);
    }
  }
}

template <class T>
void lrn_as(const LrnArgs& a) {
  if (a.beta == 0.5f) return lrn_tiles<Power::half, T>(a);
  if (a.beta == 0.75f) return lrn_tiles<Power::three_quarters, T>(a);
  if (a.beta == 1.0f) return lrn_tiles<Power::one, T>(a);
  lrn_tiles<Power::any, T>(a);
}

}  // namespace

void lrn(const LrnArgs& a) { a.dtype == DType::bf16 ? lrn_as<uint16_t>(a) : lrn_as<float>(a); }

}  // namespace drystone::DRYSTONE_ISA
