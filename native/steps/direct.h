#pragma once

#include <string>
#include <vector>

#include "core/post_op.h"
#include "core/program.h"
#include "core/tensor.h"
#include "kernels/direct.h"

namespace drystone {

// x (N, C, *spatial) * weights (O, C / groups, *kernel) + bias (O) in groups whose channels, of x and of the output, are whole vectors of
// float32. One or two spatial axes, any stride, dilation and padding; x and output both channels_last or both blocked by a vector.
// Post-ops: one at most, "relu" or "clamp". Slots: x, packed weights, bias where there is one, output, which overlaps nothing. Throws
// std::invalid_argument for anything else.
class Direct final : public Step {
 public:
  Direct(const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride, const Dims& padding_l,
         const Dims& padding_r, const Dims& dilation, const std::vector<PostOp>& post_ops);
  void run(const Run& run, StepState* state) const override;

  int64_t packed_bytes() const;
  std::string packed_key() const;  // equal keys: the same bytes for the same weights
  // source: dense (O, C / groups, *kernel) of float32 or bfloat16; packed: packed_bytes() of memory.
  void pack(DType dtype, const void* source, void* packed) const;

 private:
  int64_t taps() const { return args_.kernel[1] * args_.kernel[2]; }

  void (*kernel_)(const DirectArgs&);
  DirectArgs args_{};
  bool has_bias_;
  int threads_;  // that the scratchpad is made for
  int64_t elements_;
};

}  // namespace drystone
