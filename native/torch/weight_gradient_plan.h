// The gradient of a convolution's weights as torch's eager mode has it: its tensors in and out.
#pragma once

#include <memory>

#include "torch/convolution_plan.h"

namespace drystone::torch {

struct WeightGradientProblem {
  ConvolutionProblem convolution;
  Dims gradient_strides;  // of the output's gradient

  auto operator<=>(const WeightGradientProblem&) const = default;
};

// oneDNN's kernel, or Winograd's where it pays, between reorders to the formats in which they are fast and back. The result lies as the
// weights do. Shared by threads.
class WeightGradientPlan {
 public:
  using Problem = WeightGradientProblem;

  // Throws what a step throws that is not served.
  explicit WeightGradientPlan(const WeightGradientProblem& problem);
  // x, gradient: of the convolution and of its output.
  void run(const void* x, const void* gradient, void* result) const;

 private:
  // A step, what orders its operands and its result, null where they lie so already, and the bytes of those in order.
  struct Way {
    std::unique_ptr<Step> step;
    std::unique_ptr<Reorder> first, second, after;
    size_t first_bytes, second_bytes, after_bytes;
  };
  void run(const Way& way, const void* x, const void* gradient, void* result) const;

  int threads_;
  bool transposed_;
  int64_t weights_;
  Way onednn_, winograd_;  // the latter may have no step
};

}  // namespace drystone::torch
