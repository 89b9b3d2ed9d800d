// What the depthwise convolution reads: maps of one to three spatial axes, packed weights, an epilogue and a plan of the work.
#pragma once

#include <cstddef>

#include "kernels/pointwise.h"
#include "kernels/spatial.h"

namespace drystone {

// Channel c of position p of image n: n * image + c / block * block_stride + c % block * lane + the sum of p[i] * spatial[i]. What is
// broadcast has stride 0.
struct DepthwiseMap {
  int64_t image, block, block_stride, lane, spatial[3];
};

// One instruction of the epilogue on the running result, which is its first operand.
struct DepthwiseOp {
  PointwiseInstruction instruction;
  bool binary;  // whether there is a second operand
  DType dtype;  // of that
  DepthwiseMap map;
  const void* operand;
  Affine affine;  // of that
};

constexpr int depthwise_max_ops = 8;
constexpr int depthwise_tile(int64_t lanes) { return lanes == 16 ? 14 : 7; }  // columns of two vectors of channels, in registers
constexpr int depthwise_most_taps = 3;                                        // of a run

// What a tap of a row of the kernel meets: outputs [begin, end) of a tile, the first of the tile at `offset` from where its first tap
// does, in elements.
struct DepthwiseTap {
  int64_t offset;
  int32_t begin, end;
};

// Taps of a row, in copies: each meets the column that the one before meets for the next output.
struct DepthwiseRun {
  int64_t offset;     // of the first one, in the scratch
  int64_t tap, taps;  // the first, and how many
};

struct DepthwiseArgs : ConvolutionAxes {
  DType dtype, output_dtype;  // of x, and of the output: the same, unless x is codes
  bool across;                // vectors go across channels, which are neighbours in both; else along columns
  int64_t batch, channels;    // of the output
  int64_t inputs, outputs;    // channels of a group: channel c of the output reads those of group c / outputs
  DepthwiseMap in_map, out_map;

  const void* x = nullptr;
  // [slice and row of the kernel][input][tap of the row] of each vector of channels, [lane] innermost, or of each channel
  const float* weights = nullptr;
  const float* unbounded = nullptr;  // behind them: not 0 if a weight is NaN or infinite
  const float* bias = nullptr;
  void* output = nullptr;
  Affine output_affine = {};
  float zero = 0;  // of codes of x, and of a channel the scale of their sums, null without codes
  const float* scales = nullptr;
  float low, high;  // between which results are kept
  int ops = 0;      // after that
  DepthwiseOp op[depthwise_max_ops] = {};

  // The work is cut into row_parts x column_parts parts a plane. Rows of results are kept in the scratch, line_pitch floats apart, until
  // there are line_rows of them for the epilogue.
  int64_t row_parts, column_parts, line_pitch, line_rows;
  bool direct;  // vectors of channels are read where they lie, a row in `tiles` tiles of nearly equal width
  int64_t tiles;
  const DepthwiseTap* taps = nullptr;   // the taps of a row for each kind of tile
  const int32_t* tile_kinds = nullptr;  // the kind of each tile
  // Else the rows of x that a row of outputs reads, `span` of them, lie in the scratch, each once for each input of a group, with the
  // columns that a part reads: those of a multiple of the stride lie together, the next ones `phase` floats on.
  int64_t span, phase, row_floats;
  const DepthwiseRun* single_taps = nullptr;  // the taps of a row, in their order, and
  const DepthwiseRun* runs = nullptr;         // in run_count runs, which are single taps unless across
  int64_t run_count, apart;                   // apart: floats from the weights of a tap to those of the next one of a run
  int threads = 1;
  std::byte* scratch = nullptr;  // thread_bytes a thread: the rows of x, the results, as many of an operand, what a row meets
  int64_t thread_bytes;
};

}  // namespace drystone
