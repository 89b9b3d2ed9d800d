#pragma once

#include <string>
#include <vector>

#include "core/post_op.h"
#include "core/program.h"
#include "core/tensor.h"
#include "kernels/winograd.h"

namespace drystone {

// x (N, C, H, W) * weights (O, C, 3, 3) + bias (O), stride 1, no dilation, padding 0 to 2 on each side, by Winograd's F(tile x tile,
// 3 x 3) with tile 2 or 4; or x (N, C, D, H, W) * weights (O, C, 3, 3, 3) or (O, C, 1, 3, 3), slice by slice. float32; x and output both
// channels_last or both blocked, C and O multiples of 16. Post-ops: relu, leaky_relu, clamp, and "sum" or "add" of an operand of the
// output's shape and format, at most three. NaN and infinities reach the outputs whose window holds them, and no others.
// Of codes x, of two spatial axes in channels_last: weights are s8 with a scale an output channel (weight_scales), products are of
// integers, and the output and operands may be codes or float32. Slots: x, packed
// weights, bias where there is one, output, operands. The output may be a post-op's operand, but overlaps nothing else. Throws
// std::invalid_argument for anything else.
class Winograd final : public Step {
 public:
  Winograd(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& padding_l, const Dims& padding_r,
           int tile, const std::vector<PostOp>& post_ops, const std::vector<float>& weight_scales = {});
  void run(const Run& run, StepState* state) const override;

  int64_t packed_bytes() const;
  std::string packed_key() const;  // equal keys: the same bytes for the same weights
  // source: dense (O, C, 3, 3) of float32, or s8 for codes; packed: packed_bytes() of memory.
  void pack(DType dtype, const void* source, void* packed) const;
  // strides: of the axes of the weights, in elements; they may be negative.
  void pack(const float* source, const Dims& strides, int threads, void* packed) const;

  const WinogradArgs& args() const { return args_; }  // its sizes and maps

 private:
  void plan(int64_t threads);
  void pack_codes(const int8_t* source, int16_t* packed) const;
  bool of_codes() const { return !scales_.empty(); }

  void (*kernel_)(const WinogradArgs&);
  WinogradArgs args_{};
  bool has_bias_;
  std::vector<float> scales_;   // of codes
  std::vector<bool> in_place_;  // for each post-op: whether its operand is what the output holds already
  int threads_;                 // that the scratchpad is made for
  int64_t elements_;
};

}  // namespace drystone
