#include "kernels/rotary.h"

#include <array>

#include "steps/axes.h"
#include "steps/elements.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

class RotaryStep final : public KernelStep<RotaryArgs> {
 public:
  explicit RotaryStep(const std::array<const TensorDesc*, 4>& operands) : KernelStep("rotary", &KernelTable::rotary) {
    elements_ = operands[3]->numel();
    const TensorDesc& output = *operands[3];
    require(output.rank() > 0 && output.shape.back() % 2 == 0, "a rotary embedding halves the last axis");
    require(operands[0]->shape == output.shape, "the output of a rotary embedding has another shape");
    std::vector<Dims> strides;
    for (int i = 0; i < 4; i++) {
      const TensorDesc& desc = *operands[i];
      check_operand(desc, "operand " + std::to_string(i));
      check_plain(desc);
      require(desc.rank() > 0 && desc.shape.back() == output.shape.back(), desc.str() + " has another last axis than the output");
      require(desc.strides.back() == 1, desc.str() + " has elements apart on its last axis");
      strides.push_back(broadcast_strides(desc, output.shape));
      args_.dtypes[i] = desc.dtype;
    }
    std::vector<Axis> axes;
    for (int64_t axis = 0; axis + 1 < output.rank(); axis++) {
      axes.push_back({output.shape[axis], {}});
      for (const Dims& operand : strides) axes.back().strides.push_back(operand[axis]);
    }
    axes = collapse(axes);
    require(axes.size() <= rotary_max_axes, "operands that need more than 8 axes are not supported");
    args_.axes = static_cast<int>(axes.size());
    for (size_t axis = 0; axis < axes.size(); axis++) {
      args_.sizes[axis] = axes[axis].size;
      for (int operand = 0; operand < 4; operand++) args_.strides[operand][axis] = axes[axis].strides[operand];
    }
    args_.half = output.shape.back() / 2;
  }

  void run(const Run& run, StepState*) const override {
    if (elements_ == 0) return;
    RotaryArgs args = args_;
    for (int i = 0; i < 3; i++) args.inputs[i] = run.slots[i];
    args.output = run.slots[3];
    launch(args, run.threads);
  }
};

}  // namespace

std::shared_ptr<Step> make_rotary(const TensorDesc& x, const TensorDesc& cosines, const TensorDesc& sines, const TensorDesc& output) {
  return std::make_shared<RotaryStep>(std::array<const TensorDesc*, 4>{&x, &cosines, &sines, &output});
}

}  // namespace drystone
