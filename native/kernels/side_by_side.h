// What the kernel reads for convolutions, transposed or not, whose windows lie side by side: the stride is the kernel's size.
#pragma once

#include <cstdint>

namespace drystone {

// Each position of the narrow map stands for a window of the wide one. Transposed: x is the narrow one, and its positions are spread over
// windows of the output; else windows of x are collected into positions of the output. Axes that the maps do not have are 1. All memory is
// dense.
struct SideBySideArgs {
  bool transposed;
  int64_t batch, in_channels, out_channels;
  int64_t depth, height, width;                 // of the narrow map
  int64_t wide_depth, wide_height, wide_width;  // of the wide one, which may have a rest that fills no window
  int64_t window_depth, window_height, window_width;

  const float* x = nullptr;        // (batch, in_channels, map)
  const float* weights = nullptr;  // transposed: (in_channels, out_channels, window); else (out_channels, in_channels, window)
  const float* bias = nullptr;     // (out_channels), or null
  float* output = nullptr;         // (batch, out_channels, map)

  bool streams;  // results pass the caches by
  int threads = 1;
  float* scratch = nullptr;  // packed_floats, then strip_floats a thread
  int64_t packed_floats, strip_floats;
  int64_t block_strips;
};

// Rows of weights times positions that are multiplied together, for vectors of `lanes` floats: windows are as wide as divides the rows.
struct SideBySideTile {
  int64_t rows, positions;
};
constexpr SideBySideTile side_by_side_tile(int64_t lanes) { return {lanes == 16 ? 8 : 4, 3 * lanes}; }
constexpr int64_t side_by_side_strips = 16;  // at most in a block

}  // namespace drystone
