// A convolution in float32 as torch's eager mode has it: its tensors in and out, weights as they are at each call.
#pragma once

#include <memory>
#include <vector>

#include "onednn/onednn.h"
#include "steps/winograd.h"
#include "torch/tensor.h"

namespace drystone::torch {

// All that a call depends on but for the values. `weights`: as torch has them, (O, C, *k), or (C, O, *k) if transposed.
struct ConvolutionProblem {
  Dims x, x_strides, weights, weights_strides, stride, padding_l, padding_r, dilation, output;
  bool has_bias, transposed, channels_last;  // the last: of the output
  int threads;

  auto operator<=>(const ConvolutionProblem&) const = default;
};

// The step that computes it, Winograd's where that pays and else oneDNN's, between reorders to the format in which it is fast and back.
// Making one takes longer than a small convolution: they are kept. Shared by threads.
class ConvolutionPlan {
 public:
  // Throws what a step throws that is not served.
  explicit ConvolutionPlan(const ConvolutionProblem& problem);
  void run(const void* x, const void* weights, const void* bias, void* output) const;

 private:
  const Step& step() const { return winograd_ ? static_cast<const Step&>(*winograd_) : *convolution_; }
  void pack(const void* weights, void* packed) const;

  int threads_;
  TensorDesc source_, target_;  // as the step reads and writes
  std::unique_ptr<Winograd> winograd_;
  std::unique_ptr<Convolution> convolution_;
  Dims weights_, strides_;  // outputs first
  bool turned_;             // Winograd's are read from their end on
  std::unique_ptr<Reorder> before_, after_;  // null where x, or the output, lies so already
};

// Of the last problems; null where oneDNN has no fast kernel for one.
std::shared_ptr<const ConvolutionPlan> plan_of(const ConvolutionProblem& problem);

}  // namespace drystone::torch
