// Convolution 3x3, stride 1, float32, by Winograd's minimal filtering F(m x m, 3 x 3) (Lavin and Gray, CVPR 2016), m = 4 or 2:
// a tile of m x m outputs costs (m + 2)^2 multiplications a pair of channels instead of 9 m^2. channels_last and blocked.
//
// A block of tiles is transformed to V[point][in channels / W][tile][W], multiplied point by point with the weights, which were
// transformed once, and the products M[point][vector][tile][W] are transformed back, with bias and epilogue. Blocks are as large as
// keeps V and M in the second level cache (Jia et al., PPoPP 2018); where the weights are so large that reading them is what
// counts, larger (steps/winograd.cpp). The multiplication keeps 14 tiles x 2 vectors of output channels in registers (AVX2: 6 x 2);
// all its addresses are constant offsets from two pointers, as the channels of a tile lie W by W.
//
// 3x3x3: three such convolutions of the slices around each slice, their products summed before they are transformed back.
//
// Zen 5, AVX-512, one core, tiles of 4, against oneDNN 3.2's direct convolution in its better format: 64 channels at 56 x 56 0.32 ms
// against 0.97, 128 at 28 x 28 0.28 against 0.87, 256 at 14 x 14 0.34 against 0.83.
#include "kernels/winograd.h"

#include "kernels/winograd_blocks.h"
#include "kernels/winograd_codes.h"
#include "kernels/winograd_epilogue.h"
#include "kernels/winograd_nonfinite.h"
#include "kernels/winograd_patches.h"
#include "kernels/winograd_tiles.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;

template <int m>
struct Floating {
  using Point = float;
  static constexpr int64_t tile = m, lanes = W;
  const WinogradArgs& args;

  static int64_t apart(int64_t tiles, int64_t channels) { return tiles * channels + winograd_gap; }
  void transform_inputs(int64_t first, int64_t tiles, Range items, int64_t tap, float* v) const;
  void transform_outputs(int64_t first, int64_t tiles, int64_t begin, int64_t vectors, const float* products, int64_t stride) const;

  using Sum = Floats;
  static constexpr int together = 1;
  static constexpr bool unrolls = true;
  static constexpr int64_t run = 64;  // float32 sums of sums stay more accurate
  static inline Sum weights_at(const float* u) { return load<W>(u); }
  static inline Sum input_at(const float* v) { return all(*v); }
  static inline void add(Sum& sum, Sum weights, Sum x) { multiply_add(sum, weights, x); }
  static inline Floats floats(Sum sum) { return sum; }
};

// Items [begin, end) of a block, an item being one vector of channels of one tile, of the slices that the tap reads.
template <int m>
void Floating<m>::transform_inputs(int64_t first, int64_t tiles, Range items, int64_t tap, float* v) const {
  const WinogradArgs& a = args;
  const int64_t vectors = a.in_channels / W, stride = apart(tiles, a.in_channels);
  for (int64_t item = items.begin; item < items.end;) {
    const int64_t t = item / vectors, last = least(items.end, (t + 1) * vectors);
    Position at = position(a, first + t);
    at.slice += tap;
    const Patch patch = patch_at<m>(a, at);
    for (; item < last; item++) {
      const int64_t vector = item % vectors;
      transform_patch<m>(a, patch, vector * W, v + (vector * tiles + t) * W, stride);
    }
  }
}

template <int m>
void Floating<m>::transform_outputs(int64_t first, int64_t tiles, int64_t begin, int64_t vectors, const float* products,
                                    int64_t stride) const {
  const WinogradArgs& a = args;
  for (int64_t t = 0; t < tiles; t++) {
    const Position at = position(a, first + t);
    const int64_t rows = least(m, a.out_height - at.row), columns = least(m, a.out_width - at.column);
    for (int64_t vector = 0; vector < vectors; vector++) {
      const float* from = products + (vector * tiles + t) * W;
      const int64_t c = begin + vector * W;
      const Floats bias = a.bias ? load<W>(a.bias + c) : Floats{};
      float* to = static_cast<float*>(a.output) + offset(a.out_map, at, c);
      if (columns == m) fetch_tile<m>(to + m * a.out_map.column, rows, a.out_map);
      Floats sums[m * m], y[m * m];
      transform_back<m, Transform<m>>(from, stride, sums);
      if (all_finite<m>(sums)) [[likely]] {
#pragma GCC unroll 16
        for (int i = 0; i < m * m; i++) y[i] = sums[i] + bias;
      } else {
        convolve_directly<m>(a, at, c, bias, rows, columns, y);
      }
      for (int i = 0; i < a.ops; i++) apply<m>(a.op[i], at, c, rows, columns, y);
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) store<W>(to + i * a.out_map.row + j * a.out_map.column, y[i * m + j]);
    }
  }
}

}  // namespace

void winograd(const WinogradArgs& a) {
  if (a.dtype != DType::f32) return winograd_of_codes(a);
  a.tile == 4 ? convolve_blocks(Floating<4>{a}) : convolve_blocks(Floating<2>{a});
}

}  // namespace drystone::DRYSTONE_ISA
