#pragma once

#include <cstdint>

#include "kernels/spatial.h"

namespace drystone {

enum class GridPadding : uint8_t { zeros, border, reflection };

// output[n, c, i, j] = x[n, c, y, x] with (x, y) = grid[n, i, j], which go from -1 to 1 over the input, between its four neighbours.
struct GridSampleArgs : SpatialArgs {
  const void* grid = nullptr;
  int64_t grid_batch_stride;
  bool nearest, align_corners;
  GridPadding padding;
  int64_t size[2], in_stride[2], out_size[2], out_stride[2];  // rows, columns
  int64_t grid_stride[3];                                     // rows, columns, the pair
};

}  // namespace drystone
