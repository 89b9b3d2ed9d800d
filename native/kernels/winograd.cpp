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

#include <omp.h>

#include "kernels/winograd_nonfinite.h"
#include "kernels/winograd_patches.h"
#include "kernels/winograd_tiles.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;
constexpr int kGroup = kVectorBytes == 64 ? 14 : 6;  // tiles multiplied together
constexpr int64_t kRun = 64;                         // channels summed in one go: float32 sums of sums stay more accurate

// Items [begin, end) of a block, an item being one vector of channels of one tile, of the slices that the tap reads.
template <int m>
void transform_inputs(const WinogradArgs& a, int64_t first, int64_t tiles, Range items, int64_t tap, float* v) {
  const int64_t vectors = a.in_channels / W, stride = tiles * a.in_channels + winograd_gap;
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

// The products of `Tiles` tiles with a panel of `Vectors` vectors of output channels, summed over runs of kRun channels first. opens:
// whether m holds no sums yet. ahead: what to fetch meanwhile, `step` floats a channel.
template <int Tiles, int Vectors>
void multiply_group(const float* v, int64_t v_stride, const float* u, int64_t channels, bool opens, float* m, int64_t m_stride,
                    const float* ahead, int64_t step) {
  for (int64_t run = 0; run < channels; run += kRun) {
    Lanes sum[Tiles][Vectors] = {};
    for (int64_t block = run; block < least(channels, run + kRun); block += W) {
#pragma GCC unroll 4
      for (int c = 0; c < W; c++) {
        Lanes weight[Vectors];
#pragma GCC unroll 2
        for (int j = 0; j < Vectors; j++) weight[j] = load<W>(u + (c * Vectors + j) * W);
        __builtin_prefetch(ahead + c * step, 0, 2);
#pragma GCC unroll 14
        for (int t = 0; t < Tiles; t++) {
          const float x = v[t * W + c];
#pragma GCC unroll 2
          for (int j = 0; j < Vectors; j++) sum[t][j] += weight[j] * x;
        }
      }
      v += v_stride;
      u += W * Vectors * W;
      ahead += W * step;
    }
#pragma GCC unroll 14
    for (int t = 0; t < Tiles; t++) {
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; j++) {
        float* to = m + j * m_stride + t * W;
        store<W>(to, run == 0 && opens ? sum[t][j] : load<W>(to) + sum[t][j]);
      }
    }
  }
}

template <int Tiles, int Vectors>
inline void multiply_some(int64_t tiles, const float* v, int64_t v_stride, const float* u, int64_t channels, bool opens, float* m,
                          int64_t m_stride, const float* ahead, int64_t step) {
  if (tiles == Tiles) return multiply_group<Tiles, Vectors>(v, v_stride, u, channels, opens, m, m_stride, ahead, step);
  if constexpr (Tiles > 1) multiply_some<Tiles - 1, Vectors>(tiles, v, v_stride, u, channels, opens, m, m_stride, ahead, step);
}

// One point of a tap, one panel, all tiles of a block.
void multiply(int64_t tiles, const float* v, const float* u, int64_t vectors, int64_t channels, bool opens, float* m, const float* ahead) {
  const int64_t groups = ceil_div(tiles, kGroup), stride = tiles * W, step = vectors * W / groups;
  for (int64_t g = 0; g < groups; g++) {
    const Range r = share(tiles, g, groups);
    const float* fetch = ahead + g * step * channels;
    if (vectors == kPanel) {
      multiply_some<kGroup, kPanel>(r.end - r.begin, v + r.begin * W, stride, u, channels, opens, m + r.begin * W, stride, fetch, step);
    } else {
      multiply_some<kGroup, 1>(r.end - r.begin, v + r.begin * W, stride, u, channels, opens, m + r.begin * W, stride, fetch, step);
    }
  }
}

// y: a tile of results, of which the first rows x columns exist; c: their first channel.
template <int m>
inline void apply(const WinogradOp& op, const Position& at, int64_t c, int64_t rows, int64_t columns, Lanes* y) {
  const Lanes zero = {};
  switch (op.kind) {
    case WinogradOpKind::relu:
      for (int i = 0; i < m * m; i++) y[i] = y[i] < zero ? zero : y[i];
      break;
    case WinogradOpKind::leaky_relu:
      for (int i = 0; i < m * m; i++) y[i] = y[i] < zero ? y[i] * op.alpha : y[i];
      break;
    case WinogradOpKind::clamp:
      for (int i = 0; i < m * m; i++) {
        const Lanes above = y[i] < op.alpha ? zero + op.alpha : y[i];
        y[i] = above > op.beta ? zero + op.beta : above;
      }
      break;
    case WinogradOpKind::add: {
      const float* from = op.operand + offset(op.map, at, c);
      for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) y[i * m + j] += load<W>(from + i * op.map.row + j * op.map.column);
      break;
    }
  }
}

template <int m>
void transform_outputs(const WinogradArgs& a, int64_t first, int64_t tiles, int64_t begin, int64_t vectors, const float* products,
                       int64_t stride) {
  constexpr int n = m + 2;
  for (int64_t t = 0; t < tiles; t++) {
    const Position at = position(a, first + t);
    const int64_t rows = least(m, a.out_height - at.row), columns = least(m, a.out_width - at.column);
    for (int64_t vector = 0; vector < vectors; vector++) {
      const float* from = products + (vector * tiles + t) * W;
      const int64_t c = begin + vector * W;
      const Lanes bias = a.bias ? load<W>(a.bias + c) : Lanes{};
      float* to = a.output + offset(a.out_map, at, c);
      if (columns == m) fetch_tile<m>(to + m * a.out_map.column, rows, a.out_map);
      Lanes half[m][n], sums[m * m], y[m * m];
#pragma GCC unroll 6
      for (int j = 0; j < n; j++) {
        Lanes s[n], e[m];
#pragma GCC unroll 6
        for (int i = 0; i < n; i++) s[i] = load<W>(from + (i * n + j) * stride);
        Transform<m>::output(s, e);
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) half[i][j] = e[i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < m; i++) Transform<m>::output(half[i], sums + i * m);
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

// The output channels of some panels, for a block whose inputs are transformed. Of several taps the last one closes the sums, which
// the products keep from tap to tap: the panels are a single chunk then.
template <int m>
void convolve_panels(const WinogradArgs& a, int64_t first, int64_t tiles, Range panels, int64_t tap, const float* v, float* products) {
  constexpr int points = (m + 2) * (m + 2);
  const int64_t all = a.out_channels / W, v_stride = tiles * a.in_channels + winograd_gap;
  for (int64_t chunk = panels.begin; chunk < panels.end; chunk += a.chunk_panels) {
    const int64_t end = least(panels.end, chunk + a.chunk_panels), vectors = least(all, end * kPanel) - chunk * kPanel;
    const int64_t stride = tiles * vectors * W + winograd_gap;
    for (int64_t point = 0; point < points; point++) {
      for (int64_t panel = chunk; panel < end; panel++) {
        const float* ahead = panel + 1 < end      ? panel_weights(a, panel + 1, tap, point)
                             : point + 1 < points ? panel_weights(a, chunk, tap, point + 1)
                             : end < panels.end   ? panel_weights(a, end, tap, 0)
                                                  : panel_weights(a, panels.begin, (tap + 1) % a.taps, 0);
        multiply(tiles, v + point * v_stride, panel_weights(a, panel, tap, point), panel_width(a, panel), a.in_channels, tap == 0,
                 products + point * stride + (panel - chunk) * kPanel * tiles * W, ahead);
      }
    }
    if (tap + 1 == a.taps) transform_outputs<m>(a, first, tiles, chunk * kPanel * W, vectors, products, stride);
  }
}

template <int m>
void convolve(const WinogradArgs& a) {
  const int64_t tiles = a.batch * a.out_depth * a.tile_rows * a.tile_columns, vectors = a.in_channels / W;
  const int64_t panels = ceil_div(a.out_channels, kPanel * W);
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    float* inputs = reinterpret_cast<float*>(a.scratch + (a.shared ? 0 : thread * a.inputs_bytes));
    float* products = reinterpret_cast<float*>(a.scratch + (a.shared ? 1 : threads) * a.inputs_bytes + thread * a.results_bytes);
    const int64_t member = a.shared ? thread : 0, members = a.shared ? threads : 1;
    const Range mine = a.shared ? Range{0, tiles} : share(tiles, thread, threads);
    const int64_t blocks = ceil_div(mine.end - mine.begin, a.block_tiles);
    for (int64_t b = 0; b < blocks; b++) {
      const Range block = share(mine.end - mine.begin, b, blocks);
      const int64_t first = mine.begin + block.begin, count = block.end - block.begin;
      for (int64_t tap = 0; tap < a.taps; tap++) {
        transform_inputs<m>(a, first, count, share(count * vectors, member, members), tap, inputs);
        if (members > 1) {
#pragma omp barrier
        }
        convolve_panels<m>(a, first, count, share(panels, member, members), tap, inputs, products);
        if (members > 1) {
#pragma omp barrier
        }
      }
    }
  }
}

}  // namespace

void winograd(const WinogradArgs& a) { a.tile == 4 ? convolve<4>(a) : convolve<2>(a); }

}  // namespace drystone::DRYSTONE_ISA
