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
};

class NormPlan {
 public:
  using Problem = NormProblem;

  explicit NormPlan(const NormProblem& p)
      : step_(desc(p.shape), parameter(p, p.has_weight), parameter(p, p.has_bias), desc(p.shape),
              {p.shape.size() == 2 ? "layer" : "batch", {1}, 1, p.eps, true}) {}

  // Of weight and bias those that the problem has; the others are null.
  void run(const void* x, const void* weight, const void* bias, void* y, void* means, void* deviations, void* variances) const {
    run_step(step_, {x, weight, bias, y, means, deviations, variances}, shim().threads());
  }

 private:
  static TensorDesc desc(const Dims& shape) { return TensorDesc::dense(DType::f32, drystone::Format::plain, shape); }
  static std::optional<TensorDesc> parameter(const NormProblem& p, bool has) {
    return has ? std::optional(desc({p.shape[1]})) : std::nullopt;
  }

  NormStep step_;
};

}  // namespace drystone::torch
