// The gradient of the weights of a convolution 3x3, stride 1, float32, by Winograd's F(4x4, 3x3) turned round: with the convolution
// y = A^T [(G w G^T) . (B^T x B)] A of a tile, that of w is the sum over all tiles of G^T [(A y A^T) . (B^T x B)] G, which takes 36
// multiplications a tile and pair of channels instead of 144. channels_last and blocked.
//
// Tiles of a few slices are transformed by all threads together, to V[point][in channels / W][tile][W] and Z[point][out channels / W]
// [tile][W]; then each thread multiplies some points: half a vector of input channels times two of output channels stays in registers
// for all tiles. With three taps, the tiles of the slices before and after are the same array, a slice of tiles further on. The sums of
// all blocks are transformed back in the end, in double.
//
// Zen 5, AVX-512, two cores, with reorders, against oneDNN 3.2's direct kernel: 32 to 64 channels at 32x64x64 15 ms against 36, 128 to 64
// at 32x32x32 13 against 34, 128 to 128 at 16x16x16 3.6 against 7.
#include "kernels/winograd_gradient.h"

#include <omp.h>

#include "kernels/winograd_patches.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats, kTile = 4, kPoints = 36, kRows = W / 2;

// Tiles [begin, begin + tiles) of slices [front, front + slices) of an image.
struct Block {
  int64_t image, front, slices, begin, tiles;
};

Position position_in(const WinogradArgs& a, const Block& block, int64_t slice, int64_t tile) {
  const int64_t at = block.begin + tile;
  return {block.image, block.front + slice, at / a.tile_columns * kTile, at % a.tile_columns * kTile};
}

void transform_inputs(const WinogradGradientArgs& g, const Block& block, int64_t thread, int64_t threads) {
  const WinogradArgs& a = g.convolution;
  const int64_t vectors = a.in_channels / W, all = (block.slices + a.taps - 1) * block.tiles, stride = all * a.in_channels + winograd_gap;
  const Range mine = share(all, thread, threads);
  for (int64_t t = mine.begin; t < mine.end; t++) {
    const Patch patch = patch_at<kTile>(a, position_in(a, block, t / block.tiles, t % block.tiles));
    for (int64_t vector = 0; vector < vectors; vector++)
      transform_patch<kTile>(a, patch, vector * W, g.inputs + (vector * all + t) * W, stride);
  }
}

void transform_gradients(const WinogradGradientArgs& g, const Block& block, int64_t thread, int64_t threads) {
  const WinogradArgs& a = g.convolution;
  const int64_t vectors = a.out_channels / W, all = block.slices * block.tiles, stride = all * a.out_channels + winograd_gap;
  const Range mine = share(all, thread, threads);
  for (int64_t t = mine.begin; t < mine.end; t++) {
    const Position at = position_in(a, block, t / block.tiles, t % block.tiles);
    const int64_t rows = least(kTile, a.out_height - at.row), columns = least(kTile, a.out_width - at.column);
    for (int64_t vector = 0; vector < vectors; vector++) {
      const float* from = g.gradient + offset(a.out_map, at, vector * W);
      if (columns == kTile) fetch_tile<kTile>(from + kTile * a.out_map.column, rows, a.out_map);
      float* to = g.gradients + (vector * all + t) * W;
      Floats half[6][kTile];
#pragma GCC unroll 4
      for (int j = 0; j < kTile; j++) {
        Floats y[kTile], s[6];
#pragma GCC unroll 4
        for (int i = 0; i < kTile; i++)
          y[i] = i < rows && j < columns ? load<W>(from + i * a.out_map.row + j * a.out_map.column) : Floats{};
        Transform<kTile>::gradient(y, s);
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) half[i][j] = s[i];
      }
#pragma GCC unroll 6
      for (int i = 0; i < 6; i++) {
        Floats s[6];
        Transform<kTile>::gradient(half[i], s);
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++) store<W>(to + (i * 6 + j) * stride, s[j]);
      }
    }
  }
}

// kRows input channels times `Vectors` vectors of output channels, z_stride apart, summed over tiles.
template <int Vectors>
void multiply(const float* v, const float* z, int64_t z_stride, int64_t tiles, float* to, int64_t to_stride, bool opens) {
  Floats sum[kRows][Vectors] = {};
#pragma GCC unroll 2
  for (int64_t t = 0; t < tiles; t++, v += W, z += W) {
    Floats lanes[Vectors];
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; j++) lanes[j] = load<W>(z + j * z_stride);
#pragma GCC unroll 8
    for (int c = 0; c < kRows; c++)
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; j++) sum[c][j] += lanes[j] * v[c];
  }
#pragma GCC unroll 8
  for (int c = 0; c < kRows; c++) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; j++) {
      float* at = to + c * to_stride + j * W;
      store<W>(at, opens ? sum[c][j] : load<W>(at) + sum[c][j]);
    }
  }
}

void multiply_all(const WinogradGradientArgs& g, const Block& block, bool opens, int64_t thread, int64_t threads) {
  const WinogradArgs& a = g.convolution;
  const int64_t ins = a.in_channels / W, outs = a.out_channels / W, tiles = block.slices * block.tiles;
  const int64_t deep = (block.slices + a.taps - 1) * block.tiles;
  const Range mine = share(kPoints * ins, thread, threads);
  for (int64_t item = mine.begin; item < mine.end; item++) {
    const int64_t point = item / ins, in = item % ins;
    const float* z = g.gradients + point * (tiles * a.out_channels + winograd_gap);
    for (int64_t tap = 0; tap < a.taps; tap++) {
      const float* v = g.inputs + point * (deep * a.in_channels + winograd_gap) + (in * deep + tap * block.tiles) * W;
      float* to = g.sums + ((tap * kPoints + point) * a.in_channels + in * W) * a.out_channels;
      for (int half = 0; half < W; half += kRows) {
        int64_t out = 0;
        for (; out + 2 <= outs; out += 2)
          multiply<2>(v + half, z + out * tiles * W, tiles * W, tiles, to + half * a.out_channels + out * W, a.out_channels, opens);
        if (out < outs) multiply<1>(v + half, z + out * tiles * W, 0, tiles, to + half * a.out_channels + out * W, a.out_channels, opens);
      }
    }
  }
}

void transform_back(const WinogradGradientArgs& g, int64_t thread, int64_t threads) {
  const WinogradArgs& a = g.convolution;
  const int64_t outs = a.out_channels / W, stride = a.in_channels * a.out_channels;
  const Range mine = share(a.in_channels * outs, thread, threads);
  for (int64_t item = mine.begin; item < mine.end; item++) {
    const int64_t c = item / outs, out = item % outs * W;
    for (int64_t tap = 0; tap < a.taps; tap++) {
      const float* from = g.sums + tap * kPoints * stride + c * a.out_channels + out;
      float* to = g.result + out * g.out_stride + c * g.in_stride + tap * g.tap_stride;
      double half[3][6][W] = {}, whole[9][W] = {};
      for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++)
          for (int k = 0; k < 3; k++)
#pragma omp simd
            for (int l = 0; l < W; l++) half[k][j][l] += g.transform[i][k] * from[(i * 6 + j) * stride + l];
      for (int k = 0; k < 9; k++)
        for (int j = 0; j < 6; j++)
#pragma omp simd
          for (int l = 0; l < W; l++) whole[k][l] += half[k / 3][j][l] * g.transform[j][k % 3];
      for (int l = 0; l < W; l++)
        for (int k = 0; k < 9; k++) to[l * g.out_stride + k / 3 * g.row_stride + k % 3 * g.column_stride] = static_cast<float>(whole[k][l]);
    }
  }
}

}  // namespace

void winograd_gradient(const WinogradGradientArgs& g) {
  const WinogradArgs& a = g.convolution;
  const int64_t plane = a.tile_rows * a.tile_columns;
#pragma omp parallel num_threads(g.threads) if (g.threads > 1)
  {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    for (int64_t image = 0; image < a.batch; image++) {
      for (int64_t begin = 0; begin < plane; begin += g.block_tiles) {
        for (int64_t front = 0; front < a.out_depth; front += g.block_slices) {
          const Block block = {image, front, least(g.block_slices, a.out_depth - front), begin, least(g.block_tiles, plane - begin)};
          transform_inputs(g, block, thread, threads);
          transform_gradients(g, block, thread, threads);
#pragma omp barrier
          multiply_all(g, block, image + begin + front == 0, thread, threads);
#pragma omp barrier
        }
      }
    }
    transform_back(g, thread, threads);
  }
}

}  // namespace drystone::DRYSTONE_ISA
