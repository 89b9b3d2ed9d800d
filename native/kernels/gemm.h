// What the GEMM kernel reads: rows of x in place, weights packed into strips of columns, and a plan of the work.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/groups.h"
#include "kernels/pointwise.h"

namespace drystone {

// bf16_dot multiplies pairs (VDPBF16PS), so does bf16_tiles (AMX); bf16_widened computes in float32, with weights that it reads as
// bfloat16 and x of either dtype.
enum class GemmArithmetic : uint8_t { f32, bf16_widened, bf16_dot, bf16_tiles };

// An element of a packed row of x, in bytes.
constexpr int gemm_x_bytes(GemmArithmetic a) { return a == GemmArithmetic::f32 || a == GemmArithmetic::bf16_widened ? 4 : 2; }

// The tile on vectors of `lanes` float32: rows of x times vectors of columns. A strip is as wide as a tile, whatever the arithmetic.
// Rows are dealt out to blocks and threads `unit` by unit.
struct GemmTileSize {
  int rows, vectors, unit = 1;
};
constexpr GemmTileSize gemm_tile(GemmArithmetic a, int lanes) {
  if (a == GemmArithmetic::bf16_tiles) return {32, 3, 16};
  return lanes == 16 ? GemmTileSize{8, 3} : GemmTileSize{6, 2};
}

// One instruction of the epilogue on the running result, which is its first operand.
struct GemmOp {
  PointwiseInstruction instruction;
  bool binary;                        // whether there is a second operand
  DType dtype;                        // of that
  int64_t row_stride, column_stride;  // 0 where it is broadcast
  const void* operand;
};

constexpr int gemm_max_ops = 8;

struct GemmArgs {
  GemmArithmetic arithmetic;  // of codes: not bf16_widened
  Groups groups;              // of weights in codes, or of no bits
  int64_t m, n, k;
  int64_t x_stride, output_stride;  // between rows, in elements
  DType x_dtype, output_dtype;

  const void* x = nullptr;
  const void* weights = nullptr;  // [strip][k][column], bf16: [strip][pair of k][column][2]; the last strip has as few vectors as hold it
                                  // codes: [strip][group] of scales [column], minima [column], words [word of k][column]
  const float* bias = nullptr;
  void* output = nullptr;
  int ops = 0;
  GemmOp op[gemm_max_ops] = {};

  // The work is cut into split_m x split_n x split_k parts, each part into blocks of at most so many rows, strips and k.
  // split_k > 1: every part leaves sums of its own, which are added up in the end.
  int64_t split_m, split_n, split_k;
  int64_t block_m, block_strips, block_k;
  int threads = 1;
  std::byte* scratch = nullptr;                // part_bytes a part, then split_k times the padded results if split_k > 1
  int64_t rows_bytes, sums_bytes, part_bytes;  // of a part: its packed rows, the sums of a block, a strip of weights where there are codes
};

}  // namespace drystone
