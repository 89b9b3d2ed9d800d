// What a call of convolution or of its gradient is about, and whether it is one of those that are served.
#pragma once

#include <optional>

#include "torch/convolution_plan.h"
#include "torch/tensor.h"

namespace drystone::torch {

struct ConvolutionGeometry {
  Dims stride, padding, dilation;  // read in the order in which they stand here
  bool transposed;
  Dims output_padding;
  int64_t groups;

  explicit ConvolutionGeometry(Arguments& arguments);
};

// Over three axes, or transposed over one to three.
bool is_served(int64_t rank, bool transposed);

// Empty where torch's kernel serves better, or is to say what is wrong. x and weight may have any strides but those of expanded tensors.
std::optional<ConvolutionProblem> problem_of(const Handle& x, const Handle& weight, const ConvolutionGeometry& geometry);

// Whether two elements lie at one place.
bool is_expanded(const Handle& tensor);

// Dense memory for a result in plain format or channels_last.
Handle empty_map(const Dims& sizes, bool channels_last);

}  // namespace drystone::torch
