// What the GEMM kernel reads: rows of x in place, weights packed into strips of columns, and a plan of the work.
#pragma once

#include <cstddef>

#include "core/groups.h"
#include "kernels/pointwise.h"
#include "kernels/spatial.h"

namespace drystone {

// bf16_dot multiplies pairs (VDPBF16PS), so does bf16_tiles (AMX); bf16_widened computes in float32, with weights that it reads as
// bfloat16 and x of either dtype. The others multiply codes (core/quantisation.h) by weights of s8, exactly, in int32: codes_dot fours
// (VPDPBUSD), codes_tiles as well (AMX), codes_pairs pairs that stay within 16 bits as the weights do within 7 (VPMADDUBSW), codes_wide
// pairs of 16 bits (VPMADDWD). rounded_dot (VPDPBUSD) and rounded_pairs (VPMADDUBSW) multiply weights in groups by floats that are rounded
// to s8, group by group, exactly in int32, and add the groups in float32.
enum class GemmArithmetic : uint8_t {
  f32,
  bf16_widened,
  bf16_dot,
  bf16_tiles,
  rounded_dot,
  rounded_pairs,
  codes_dot,
  codes_tiles,
  codes_pairs,
  codes_wide
};

constexpr bool gemm_on_codes(GemmArithmetic a) { return a >= GemmArithmetic::codes_dot; }
constexpr bool gemm_rounds_x(GemmArithmetic a) { return a == GemmArithmetic::rounded_dot || a == GemmArithmetic::rounded_pairs; }
constexpr bool gemm_on_tiles(GemmArithmetic a) { return a == GemmArithmetic::bf16_tiles || a == GemmArithmetic::codes_tiles; }

// A group of a row of x that is rounded: scale * code, symmetric, scale = the largest magnitude / 127. Its codes follow, s8, filled up with
// zeros to the words of the weights.
struct RoundedGroup {
  float scale;
  int32_t start;  // of a sum of products: the sum of the codes, as often as makes up for what the weights' codes are above the weights
  float sum;      // of the rounded numbers
  int32_t unused;

  static constexpr int64_t bytes(const Groups& kind) { return sizeof(RoundedGroup) + kind.words() * kind.unit(); }
};

// An element of a packed row of x, in bytes, and how many k a step multiplies: four bytes of weights a column.
constexpr int gemm_x_bytes(GemmArithmetic a) {
  if (gemm_on_codes(a)) return a == GemmArithmetic::codes_wide ? 2 : 1;
  return a == GemmArithmetic::f32 || a == GemmArithmetic::bf16_widened ? 4 : 2;
}
constexpr int gemm_step_k(GemmArithmetic a) { return gemm_on_codes(a) ? 4 : a == GemmArithmetic::f32 ? 1 : 2; }

// The tile on vectors of `lanes` float32: rows of x times vectors of columns. A strip is as wide as a tile, whatever the arithmetic.
// Rows are dealt out to blocks and threads `unit` by unit.
struct GemmTileSize {
  int rows, vectors, unit = 1;
};
constexpr GemmTileSize gemm_tile(GemmArithmetic a, int lanes) {
  if (gemm_on_tiles(a)) return {32, 3, 16};
  return lanes == 16 ? GemmTileSize{8, 3} : GemmTileSize{6, 2};
}

// One instruction of the epilogue on the running result, which is its first operand.
struct GemmOp {
  PointwiseInstruction instruction;
  bool binary;                        // whether there is a second operand
  DType dtype;                        // of that
  int64_t row_stride, column_stride;  // 0 where it is broadcast
  const void* operand;
  Affine affine;  // of that
};

// How rows of floats become codes, by their own range: all of x by one scale and zero point, or each row by its own, as torch and torchao
// choose them. scale = the range, with 0 in it, over the codes'; symmetric: the larger magnitude, and the zero point is 0.
struct GemmDynamic {
  enum class By : uint8_t { none, tensor, row } by = By::none;
  bool symmetric = false;
  int lowest = 0, highest = 255;  // codes
  float eps = 0;                  // the least scale
};

// Rows of x that are what the kernel of a convolution meets in images (channels last), one an output position: k counts rows of the
// kernel, columns of it, channels. Images have rows and columns, the last two axes.
struct GemmPatches : ConvolutionAxes {
  int64_t channels, image, line, pixel;  // of x, and from one to the next in elements
};

// Of codes_pairs: what packing took from fours of k of a strip, as [four][column][4] in whole strips, and which fours these are. Those of
// a chunk of a strip: from starts[strip * (chunks + 1) + chunk] on, until where the next chunk's begin.
struct GemmRepairs {
  const uint32_t* starts = nullptr;
  const uint16_t* steps = nullptr;
  const char* weights = nullptr;
};

constexpr int gemm_max_ops = 8;
constexpr int64_t gemm_claims_bytes = 64;

struct GemmArgs {
  GemmArithmetic arithmetic;  // of codes: not bf16_widened
  Groups groups;              // of weights in codes, or of no bits
  int64_t m, n, k;
  int64_t x_stride, output_stride;  // between rows, in elements
  DType x_dtype, output_dtype;

  const void* x = nullptr;
  // [strip][k][column], bf16: [strip][pair of k][column][2], codes: [strip][four of k][column][4]; the last strip has as few vectors as
  // hold it. codes_wide: [strip][four of k][vector][pair of them][column of it][2]. Groups: [strip][group] of scales [column], minima
  // [column], words [word of k][column].
  const void* weights = nullptr;
  GemmRepairs repairs = {};
  const float* bias = nullptr;
  void* output = nullptr;
  int ops = 0;
  GemmOp op[gemm_max_ops] = {};

  // The work is cut into split_m x split_n x split_k parts, each part into blocks of at most so many rows, strips and k.
  // split_k > 1: every part leaves sums of its own, which are added up in the end.
  int64_t split_m, split_n, split_k;
  int64_t block_m, block_strips, block_k;
  int threads = 1;
  std::byte* scratch = nullptr;  // part_bytes a part, then split_k times the padded results if split_k > 1, else gemm_claims_bytes a part
  // Of a part: its packed rows, then the sums of a block, then what Codes need (gemm_codes.h), or a strip of weights in groups.
  int64_t rows_bytes, sums_bytes, part_bytes;

  // Codes, which lie packed as u8, those of s8 with their sign flipped.
  Affine output_affine = {};
  int32_t zero = 0;                      // what is packed for the number 0, unless dynamic
  const float* scales = nullptr;         // of a column's sum of products; as weight_sums, of whole strips
  const int32_t* weight_sums = nullptr;  // sums of a column's weights
  bool adds = false;                     // the only op adds rows of codes or float32
  bool bounded = false;                  // results are kept between these, before the epilogue, or after what it adds
  float low = 0, high = 0;
  GemmDynamic dynamic = {};
  bool has_patches = false;
  GemmPatches patches = {};
};

// A packed row of x lies chunk by chunk: how many k that is, and how many bytes an element takes of it, at most.
constexpr int64_t gemm_chunk_k(const GemmArgs& a) { return gemm_rounds_x(a.arithmetic) ? a.groups.group : 64 / gemm_x_bytes(a.arithmetic); }
constexpr int64_t gemm_element_bytes(const GemmArgs& a) {
  return gemm_rounds_x(a.arithmetic) ? (RoundedGroup::bytes(a.groups) + a.groups.group - 1) / a.groups.group : gemm_x_bytes(a.arithmetic);
}

}  // namespace drystone
