#pragma once

#include "core/program.h"
#include "core/tensor.h"
#include "kernels/winograd_gradient.h"

namespace drystone {

// The gradient of the weights of a convolution that steps/winograd.h serves, with tiles of 4. Sums that are not finite may be NaN where
// they should be infinite, and also for other taps of the same channels. Slots: x, the gradient of the output, which lies as the
// output would; the gradient of the weights, of any strides. Throws std::invalid_argument for anything else.
class WinogradWeightGradient final : public Step {
 public:
  WinogradWeightGradient(const TensorDesc& x, const Dims& weights, const Dims& weights_strides, const TensorDesc& output,
                         const Dims& padding_l, const Dims& padding_r, int threads);
  void run(const Run& run, StepState* state) const override;

 private:
  void (*kernel_)(const WinogradGradientArgs&);
  WinogradGradientArgs args_{};
  int64_t inputs_floats_, gradients_floats_;
};

}  // namespace drystone
