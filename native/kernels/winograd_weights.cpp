// Weights of a 3x3 convolution as the Winograd kernel reads them: G w G^T of the taps of each pair of channels, in double, a vector of
// output channels at a time, so that results are stored whole. Weights may have any strides: those of a convolution's gradient are the
// same ones, turned round and with their channels exchanged.
//
// Zen 5, AVX-512, one core, 3x3x3: 64 x 32 channels 0.042 ms, 256 x 256 2.6; a scalar loop takes 1.4 and 71.
#include "kernels/winograd_tiles.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;

// The weights w of a vector of output channels -> their points, `stride` floats apart.
template <int n>
void transform(const double (*g)[3], const double (&w)[9][W], float* to, int64_t stride) {
  double half[n][3][W];
  for (int i = 0; i < n; i++)
    for (int j = 0; j < 3; j++)
#pragma omp simd
      for (int l = 0; l < W; l++) half[i][j][l] = g[i][0] * w[j][l] + g[i][1] * w[3 + j][l] + g[i][2] * w[6 + j][l];
  for (int i = 0; i < n; i++) {
    for (int j = 0; j < n; j++, to += stride) {
#pragma omp simd
      for (int l = 0; l < W; l++) to[l] = static_cast<float>(half[i][0][l] * g[j][0] + half[i][1][l] * g[j][1] + half[i][2][l] * g[j][2]);
    }
  }
}

// Of so many input channels the points are put together before they are stored: their streams, far apart by powers of two, share cache
// sets, and are written run by run.
constexpr int64_t kRun = 4;

template <int n>
void transform_all(const WinogradWeights& a) {
  constexpr int points = n * n;
  const int64_t vectors = a.out_channels / W, panels = ceil_div(vectors, kPanel), runs = ceil_div(a.in_channels, kRun);
#pragma omp parallel for collapse(2) schedule(static) num_threads(a.threads) if (a.threads > 1)
  for (int64_t panel = 0; panel < panels; panel++) {
    for (int64_t run = 0; run < runs; run++) {
      const int64_t some = least(kPanel, vectors - panel * kPanel), width = some * W, stride = width * a.in_channels;
      const int64_t first = run * kRun, count = least(kRun, a.in_channels - first);
      float* to = a.packed + panel * kPanel * W * a.taps * points * a.in_channels + first * width;
      alignas(64) float made[points * kRun * kPanel * W];
      for (int64_t tap = 0; tap < a.taps; tap++, to += points * stride) {
        for (int64_t c = 0; c < count; c++) {
          for (int64_t vector = 0; vector < some; vector++) {
            const float* from = a.source + (panel * kPanel + vector) * W * a.out_stride + (first + c) * a.in_stride + tap * a.tap_stride;
            alignas(64) double w[9][W];
            for (int l = 0; l < W; l++)
              for (int i = 0; i < 3; i++)
                for (int j = 0; j < 3; j++) w[i * 3 + j][l] = from[l * a.out_stride + i * a.row_stride + j * a.column_stride];
            transform<n>(a.transform, w, made + c * width + vector * W, kRun * width);
          }
        }
        for (int point = 0; point < points; point++)
          __builtin_memcpy(to + point * stride, made + point * kRun * width, count * width * sizeof(float));
      }
    }
  }
}

}  // namespace

void winograd_weights(const WinogradWeights& a) { a.tile == 4 ? transform_all<6>(a) : transform_all<4>(a); }

}  // namespace drystone::DRYSTONE_ISA
