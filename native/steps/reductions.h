// The steps of the kernels that work along axes: reduce, softmax, norm.
#pragma once

#include <optional>
#include <string>

#include "core/program.h"
#include "core/tensor.h"
#include "kernels/norm.h"
#include "kernels/reduce.h"
#include "kernels/softmax.h"

namespace drystone {

// Slots: input, output. The output has the input's shape with `dims` of size 1, or without them.
class ReduceStep : public Step {
 public:
  // kind is "mean" or "sum". Throws std::invalid_argument where it is not supported, as all of these do.
  ReduceStep(const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Dims& dims);
  void run(const Run& run, StepState* state) const override;

 private:
  ReduceArgs args_{};
  int64_t elements_;
};

// Slots: input, output, which may be the same memory.
class SoftmaxStep : public Step {
 public:
  SoftmaxStep(const TensorDesc& input, const TensorDesc& output, int64_t dim);
  void run(const Run& run, StepState* state) const override;

 private:
  SoftmaxArgs args_{};
  int64_t elements_;
};

// What a norm does: "layer" and "rms" over the logical axes `dims`, "group" over the channels of each of `groups` and all spatial axes,
// "batch" over all axes but the channels'.
struct NormAttributes {
  std::string kind;
  Dims dims;
  int64_t groups;
  double eps;
  bool statistics = false;
};

// Slots: input, weight if there, bias if there, output, which may be the input's memory. With statistics, which only tensors give whose
// innermost axis is normalised, and in float32: means, reciprocals of standard deviations, variances (without eps).
class NormStep : public Step {
 public:
  NormStep(const TensorDesc& input, const std::optional<TensorDesc>& weight, const std::optional<TensorDesc>& bias,
           const TensorDesc& output, const NormAttributes& attributes);
  void run(const Run& run, StepState* state) const override;

 private:
  NormArgs args_{};
  bool has_weight_, has_bias_, statistics_;
  int64_t elements_;
};

}  // namespace drystone
