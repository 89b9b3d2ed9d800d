#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/post_op.h"
#include "core/program.h"
#include "core/tensor.h"
#include "kernels/gemm.h"
#include "steps/grouped_strips.h"

namespace drystone {

// What products of codes have: a scale an output channel, and whether all weights lie in [-64, 64], where less is to be computed.
struct CodeWeights {
  std::vector<float> scales = {};
  bool fit_7_bits = false;
};

// x (M, K) * weights (N, K) transposed + bias (N) -> output (M, N), by the own kernel. x is float32 or bfloat16 and the weights
// are of its dtype, or bfloat16 if `widened`; the output is float32 or bfloat16, sums are float32. Rows of x and of the output may lie
// apart.
// Weights may be codes, packed by GroupedStrips: their products are of x's dtype, with a few rows float32; or, `rounds_x`, x is rounded to
// codes in the same groups, symmetrically by their largest magnitudes, and their products are exact. A row with NaN or an infinity
// gives NaN then.
// Post-ops: "sum" (adds what the output holds) and every pointwise instruction; operands (M, N), (1, N) or (1, 1), at most eight.
// Codes: x of u8 or s8, or floats that are quantised row by row or by one scale (`dynamic`), weights of s8; sums are exact in int32, and
// the output may be u8 or s8 as well, operands too. Post-ops are computed in float32.
// bfloat16 is multiplied by AMX or VDPBF16PS where the CPU has it, codes by AMX or VPDPBUSD, unless `widened` to float32 or 16 bits;
// denormals may count as zero then. Slots: x, packed weights, bias (float32) where there is one, output, operands. The output may be a
// post-op's operand, but overlaps nothing else. Throws std::invalid_argument for anything else.
class Gemm final : public Step {
 public:
  Gemm(const TensorDesc& x, int64_t n, bool has_bias, const TensorDesc& output, const std::vector<PostOp>& post_ops, bool widened,
       const CodeWeights& weights = {}, const GemmDynamic& dynamic = {}, const GemmPatches* patches = nullptr,
       const GroupedStrips* strips = nullptr, bool rounds_x = false);
  void run(const Run& run, StepState* state) const override;

  int64_t packed_bytes() const;
  std::string packed_key() const;  // equal keys: the same bytes for the same weights, however many rows x has
  // source: dense (N, K) of the weights' dtype; packed: packed_bytes() of memory. Throws std::invalid_argument for weights that do not fit
  // into 7 bits where it was said that they do.
  void pack(DType dtype, const void* source, void* packed) const;

 private:
  void take_codes(const TensorDesc& x, const CodeWeights& weights);
  void pack_codes(const int8_t* source, std::byte* packed) const;
  void take_repairs(std::byte* packed) const;
  int64_t weights_bytes() const;  // of the packed weights without what lies behind them: sums of columns, then repairs
  struct RepairsAt {
    int64_t starts, steps, weights, end;  // in bytes behind the weights
  };
  RepairsAt repairs_at() const;
  void plan(int64_t threads);
  void split(int64_t threads);

  void (*kernel_)(const GemmArgs&);
  GemmArgs args_{};
  bool has_bias_;
  std::vector<float> scales_;   // of codes
  std::vector<bool> in_place_;  // for each post-op: whether its operand is what the output holds already
};

}  // namespace drystone
