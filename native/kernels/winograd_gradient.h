// What the kernel reads for the gradient of the weights of a convolution 3x3, by Winograd's method.
#pragma once

#include "kernels/winograd.h"

namespace drystone {

struct WinogradGradientArgs {
  WinogradArgs convolution;      // its sizes, maps and input; the tile is 4
  const float* gradient;         // of the output, in out_map
  const double (*transform)[3];  // the rows of G

  float* result;  // of the weights; strides count elements
  int64_t out_stride, in_stride, tap_stride, row_stride, column_stride;

  // So many tiles of a slice are multiplied together, of so many slices.
  int64_t block_tiles, block_slices;
  int threads;
  float* inputs;     // points * (tiles of block_slices + taps - 1 slices * in_channels + winograd_gap)
  float* gradients;  // points * (tiles of block_slices slices * out_channels + winograd_gap)
  float* sums;       // [tap][point][in channel][out channel]
};

}  // namespace drystone
