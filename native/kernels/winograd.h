// What the Winograd kernel reads: maps of float32 or codes in which vectors of neighbouring channels lie together, and a plan of the work.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/quantisation.h"

namespace drystone {

// The points at which the polynomials of F(4x4, 3x3) are evaluated are 0, +-a, +-b and infinity. These two, and all products of
// them that the transforms use, are exact in float32; of all such pairs tried they leave the smallest error.
constexpr float winograd_a = 0.625f, winograd_b = 1.5f;

// Channel c of pixel (h, w) of slice d of image n: n * image + c / block * block_stride + c % block + d * slice + h * row + w * column.
struct WinogradMap {
  int64_t image, block, block_stride, slice, row, column;
};

enum class WinogradOpKind : uint8_t { relu, leaky_relu, clamp, add };

struct WinogradOp {
  WinogradOpKind kind;
  float alpha, beta;  // leaky_relu: the slope; clamp: low and high
  WinogradMap map;    // add: of the operand
  DType dtype;
  Affine affine;
  const void* operand;
};

constexpr int winograd_max_ops = 3;

struct WinogradArgs {
  int tile;  // 2 or 4: the outputs of a tile, a side
  int64_t batch, in_channels, out_channels;
  int64_t in_height, in_width, out_height, out_width, pad_top, pad_left;
  int64_t taps, in_depth, out_depth, pad_front;  // across slices; 1 tap and slices that do not see each other, or 3
  int64_t tile_rows, tile_columns;               // of a slice
  WinogradMap in_map, out_map;
  DType dtype, output_dtype;  // of x, and of the output: float32, unless x is codes

  const void* input = nullptr;
  // Panels of two vectors of output channels (the last may be one): [panel][tap][point][in channel][lane] of float32. With codes of
  // int16, and input channels in pairs: [panel][point][pair][lane][channel of the pair].
  const void* weights = nullptr;
  const float* bias = nullptr;
  void* output = nullptr;
  Affine output_affine = {};
  int32_t zero = 0;               // of codes of x, as u8
  const float* scales = nullptr;  // with codes: of an output channel, from transformed sums to results
  bool bounded = false;           // with codes: whether all that the epilogue does is to keep results from low to high
  float low, high;
  int ops = 0;
  WinogradOp op[winograd_max_ops] = {};

  // Threads work on blocks of at most block_tiles tiles: each on its own, or all on the same ones (each then has some of the
  // panels). chunk_panels panels are multiplied before their results are transformed.
  int64_t block_tiles, chunk_panels;
  bool shared;
  int threads = 1;
  std::byte* scratch = nullptr;  // inputs_bytes a thread (once if shared), then results_bytes a thread
  int64_t inputs_bytes, results_bytes;
};

// Weights on their way into the order that WinogradArgs has. Strides count elements, and may be negative.
struct WinogradWeights {
  int tile;
  int64_t out_channels, in_channels, taps;
  const float* source;
  int64_t out_stride, in_stride, tap_stride, row_stride, column_stride;
  const double (*transform)[3];  // the tile + 2 rows of G
  float* packed;
  int threads;
};

// The points of a transformed block lie so many bytes more apart than they take, as strides of whole pages share cache sets.
constexpr int64_t winograd_gap_bytes = 64;
constexpr int64_t winograd_gap = winograd_gap_bytes / 4;  // of float32

// Channels of codes that are transformed together.
constexpr int64_t winograd_codes = 16;

}  // namespace drystone
