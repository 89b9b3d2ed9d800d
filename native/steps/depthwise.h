#pragma once

#include <string>
#include <vector>

#include "core/post_op.h"
#include "core/program.h"
#include "core/tensor.h"
#include "kernels/depthwise.h"
#include "steps/depthwise_codes.h"

namespace drystone {

// x (N, C, *spatial) * weights (O, C / groups, *kernel) + bias (O): each channel of the output reads those of its group. One to three
// spatial axes, any stride, dilation and padding. float32 or bfloat16, computed in float32; x and output both plain, both channels_last or
// both blocked by a vector; groups of several channels: not plain, not codes. Codes: x of u8 or s8, weights of s8 with one scale a channel;
// the output, and operands, codes or floats. Post-ops: "sum" (adds what the output holds) and every pointwise instruction, operands that
// broadcast to the output, at most eight. Slots: x, packed weights, bias (float32) where there is one, output, operands. The output may be
// a post-op's operand, but overlaps nothing else. Throws std::invalid_argument for anything else.
class Depthwise final : public Step {
 public:
  Depthwise(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride, const Dims& padding_l,
            const Dims& padding_r, const Dims& dilation, const std::vector<PostOp>& post_ops, const std::vector<float>& weight_scales = {});
  void run(const Run& run, StepState* state) const override;

  int64_t packed_bytes() const;
  std::string packed_key() const;  // equal keys: the same bytes for the same weights
  // source: dense (O, C / groups, *kernel) of float32 or bfloat16, or s8 where x is codes; packed: packed_bytes() of memory.
  void pack(DType dtype, const void* source, void* packed) const;

 private:
  void plan(int64_t threads);
  void plan_taps();
  void plan_runs();
  int64_t fitting_tile() const;
  int64_t taps() const { return args_.inputs * args_.kernel[0] * args_.kernel[1] * args_.kernel[2]; }
  int64_t packed_channels() const;

  void (*kernel_)(const DepthwiseArgs&);
  DepthwiseArgs args_{};
  bool has_bias_;
  std::optional<DepthwiseCodes> codes_;  // in integers
  std::vector<float> scales_;            // of codes
  std::vector<bool> in_place_;           // for each post-op: whether its operand is what the output holds already
  std::vector<DepthwiseRun> single_taps_, runs_;
  std::vector<DepthwiseTap> taps_;
  std::vector<int32_t> tile_kinds_;
  int threads_;  // that the scratchpad is made for
  int64_t elements_;
};

}  // namespace drystone
