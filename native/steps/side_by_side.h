#pragma once

#include "core/program.h"
#include "core/tensor.h"
#include "kernels/side_by_side.h"

namespace drystone {

// The convolution of x (N, C, spatial…) with weights (O, C, k…) + bias (O), or the transposed one with weights (C, O, k…), of stride k and
// without padding, over one to three axes. float32, all dense and plain; the last k is 1, 2 or 4. Slots: x, weights, bias where there is
// one, output. Throws std::invalid_argument for anything else.
class SideBySide final : public Step {
 public:
  SideBySide(const Dims& x, const Dims& weights, const Dims& output, bool transposed, bool has_bias, int threads);
  void run(const Run& run, StepState* state) const override;

 private:
  void (*kernel_)(const SideBySideArgs&);
  SideBySideArgs args_{};
  bool has_bias_;
};

}  // namespace drystone
