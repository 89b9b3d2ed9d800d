// A layer norm or a batch norm in float32 that also gives its statistics, as torch's operators do.
#pragma once

#include <vector>

#include "steps/reductions.h"
#include "torch/plans.h"

namespace drystone::torch {

// Of dense tensors: rows and their elements, or images, channels and pixels.
struct NormProblem {
  Dims shape;
  bool has_weight, has_bias;
  double eps;

  auto operator<=>(const NormProblem&) const = default;

  std::shared_ptr<Step> make_step() const {
    const auto desc = [](const Dims& sizes) { return TensorDesc::dense(DType::f32, drystone::Format::plain, sizes); };
    const auto parameter = [&](bool has) { return has ? std::optional(desc({shape[1]})) : std::nullopt; };
    return std::make_shared<NormStep>(desc(shape), parameter(has_weight), parameter(has_bias), desc(shape),
                                      NormAttributes{shape.size() == 2 ? "layer" : "batch", {1}, 1, eps, true});
  }
};

}  // namespace drystone::torch
