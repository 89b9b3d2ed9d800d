#pragma once

#include <string>
#include <vector>

#include "steps/gemm.h"

namespace drystone {

// A convolution of codes as a GEMM: x (N, C, [H,] W) u8 or s8, weights (O, C, [kH,] kW) s8, of one group. Rows are what the kernel meets
// at a position of the output; they are put together as the GEMM packs them. All channels_last; positions of the output follow each other
// at one distance. Weights, bias, epilogue, output: as Gemm's; operands (N, O, *out), (1, O, 1…) or (1, 1, 1…).
// Slots: as Gemm's. Throws std::invalid_argument for anything else.
class ImplicitGemm final : public Step {
 public:
  ImplicitGemm(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride, const Dims& padding_l,
               const Dims& padding_r, const Dims& dilation, const std::vector<PostOp>& post_ops, const CodeWeights& code_weights,
               bool widened);
  void run(const Run& run, StepState* state) const override { gemm_.run(run, state); }

  int64_t packed_bytes() const { return gemm_.packed_bytes(); }
  std::string packed_key() const { return "patches" + std::to_string(channels_) + ";" + gemm_.packed_key(); }
  // source: dense (O, C, [kH,] kW)
  void pack(DType dtype, const void* source, void* packed) const;

 private:
  int64_t outputs_, channels_, taps_;
  Gemm gemm_;
};

}  // namespace drystone
