#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace drystone {

enum class GridPadding : uint8_t { zeros, border, reflection };

// output[n, c, i, j] = x[n, c, y, x] with (x, y) = grid[n, i, j], which go from -1 to 1 over the input, between its four neighbours.
struct GridSampleArgs {
  const void *input = nullptr, *grid = nullptr;
  void* output = nullptr;
  DType dtype;
  bool nearest, align_corners;
  GridPadding padding;
  int64_t batch, in_batch_stride, grid_batch_stride, out_batch_stride;
  int64_t blocks, block, in_block_stride, out_block_stride;   // of neighbouring channels, as in SpatialView
  int64_t size[2], in_stride[2], out_size[2], out_stride[2];  // rows, columns
  int64_t grid_stride[3];                                     // rows, columns, the pair
  int threads = 1;
};

}  // namespace drystone
