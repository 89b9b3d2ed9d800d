// A convolution in float32 as torch's eager mode has it: its tensors in and out, weights as they are at each call.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "onednn/onednn.h"
#include "torch/tensor.h"

namespace drystone::torch {

// All that a call depends on but for the values. `weights`: as torch has them, (O, C, *k), or (C, O, *k) if transposed.
struct ConvolutionProblem {
  Dims x, x_strides, weights, weights_strides, stride, padding_l, padding_r, dilation, output;
  bool has_bias, transposed, channels_last;  // the last: of the output
  int threads;

  auto operator<=>(const ConvolutionProblem&) const = default;
};

// Blocks of channels as large as a vector: the format that plain memory is reordered to and back the fastest.

// Whether steps/winograd.h serves the problem: transposed, with weights turned round.
bool winograd_serves(const ConvolutionProblem& problem);
// Of so many outputs a side, in the output's last two axes.
int64_t tiles_of(const Dims& output, int64_t tile);

// The step that computes it, between reorders to the format in which it is fast and back: Winograd's or that of windows side by side where
// they serve, else oneDNN's. Making one takes longer than a small convolution: they are kept. Shared by threads.
class ConvolutionPlan {
 public:
  using Problem = ConvolutionProblem;

  // Throws what a step throws that is not served.
  explicit ConvolutionPlan(const ConvolutionProblem& problem);
  // False, and nothing is computed, where the weights hold infinities or NaN, or come near, and Winograd's method would spread them.
  bool run(const void* x, const void* weights, const void* bias, void* output) const;

 private:
  // Makes the step, and says in which formats it reads and writes.
  void use_side_by_side(const ConvolutionProblem& problem);
  void use_winograd(const ConvolutionProblem& problem, int tile);
  void use_onednn(const ConvolutionProblem& problem);
  void work_in(const ConvolutionProblem& problem, Format source, Format target);

  int threads_;
  TensorDesc source_, target_;  // as the step reads and writes
  std::unique_ptr<Step> step_;
  // Weights into the order that the step has for them, of so many bytes; 0 where it reads them as they are.
  std::function<void(const void* weights, void* packed)> pack_;
  int64_t packed_bytes_ = 0;
  bool transforms_ = false;                  // the weights, so that they must be finite
  std::unique_ptr<Reorder> before_, after_;  // null where x, or the output, lies so already
};

// The convolution whose output is the gradient of a problem's x, of the same weights; its x is the gradient of the problem's output.
ConvolutionProblem input_gradient_of(const ConvolutionProblem& problem, const Dims& gradient_strides);

}  // namespace drystone::torch
