#include "kernels/overlap_add.h"

#include "steps/elements.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

class OverlapAddStep final : public UnaryKernelStep<OverlapAddArgs> {
 public:
  OverlapAddStep(const TensorDesc& input, const TensorDesc& output, const Dims& kernel, const Dims& strides, const Dims& dilations,
                 const Dims& padding)
      : UnaryKernelStep("overlap_add", &KernelTable::overlap_add) {
    elements_ = input.numel();
    check_dense(input);
    check_dense(output);
    require_float(input.dtype, "an operand of overlap_add");
    require(input.dtype == output.dtype, "overlap_add into another dtype");
    require(output.rank() == 4, "overlap_add makes tensors of 4 axes");
    for (const Dims* each : {&kernel, &strides, &dilations, &padding}) require(each->size() == 2, "overlap_add goes along two axes");
    OverlapAxis axes[2];
    int64_t entries = output.shape[0] * output.shape[1];
    for (int i = 0; i < 2; i++) {
      require(kernel[i] >= 1 && strides[i] >= 1 && dilations[i] >= 1 && padding[i] >= 0, "overlap_add needs positive sizes");
      const int64_t size = output.shape[2 + i], covered = dilations[i] * (kernel[i] - 1) + 1;
      require(size + 2 * padding[i] >= covered, "no window of overlap_add fits");
      axes[i] = {size, kernel[i], (size + 2 * padding[i] - covered) / strides[i] + 1, strides[i], dilations[i], padding[i]};
      entries *= axes[i].kernel * axes[i].windows;
    }
    require(entries == elements_, "the windows of overlap_add do not fill its output");
    args_.dtype = input.dtype;
    args_.planes = output.shape[0] * output.shape[1];
    args_.rows = axes[0];
    args_.columns = axes[1];
  }
};

}  // namespace

std::shared_ptr<Step> make_overlap_add(const TensorDesc& input, const TensorDesc& output, const Dims& kernel, const Dims& strides,
                                       const Dims& dilations, const Dims& padding) {
  return std::make_shared<OverlapAddStep>(input, output, kernel, strides, dilations, padding);
}

}  // namespace drystone
