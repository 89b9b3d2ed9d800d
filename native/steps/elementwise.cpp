#include "kernels/elementwise.h"

#include <map>

#include "steps/axes.h"
#include "steps/elements.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

struct Kind {
  ElementwiseKind kind;
  size_t operands;
  bool booleans, floats;  // whether it takes them
  bool truth;             // the output is bool
};

using K = ElementwiseKind;
const std::map<std::string, Kind> kinds = {
    {"convert", {K::convert, 1, true, true, false}},
    {"invert", {K::invert, 1, true, false, false}},
    {"add", {K::add, 2, false, false, false}},
    {"sub", {K::sub, 2, false, false, false}},
    {"mul", {K::mul, 2, false, false, false}},
    {"floor_div", {K::floor_div, 2, false, false, false}},
    {"remainder", {K::remainder, 2, false, false, false}},
    {"maximum", {K::maximum, 2, false, false, false}},
    {"minimum", {K::minimum, 2, false, false, false}},
    {"bit_and", {K::bit_and, 2, true, false, false}},
    {"bit_or", {K::bit_or, 2, true, false, false}},
    {"bit_xor", {K::bit_xor, 2, true, false, false}},
    {"eq", {K::eq, 2, true, true, true}},
    {"ne", {K::ne, 2, true, true, true}},
    {"lt", {K::lt, 2, true, true, true}},
    {"le", {K::le, 2, true, true, true}},
    {"gt", {K::gt, 2, true, true, true}},
    {"ge", {K::ge, 2, true, true, true}},
    {"where", {K::where, 3, true, true, false}},
};

class ElementwiseStep final : public Step {
 public:
  ElementwiseStep(const std::vector<TensorDesc>& inputs, const TensorDesc& output, const std::string& name)
      : kernel_(require_kernels().elementwise), elements_(output.numel()) {
    implementation = kernel_name("elementwise");
    const auto found = kinds.find(name);
    require(found != kinds.end(), "unknown elementwise operation '" + name + "'");
    const Kind& kind = found->second;
    require(inputs.size() == kind.operands, name + " takes " + std::to_string(kind.operands) + " operands");
    check_types(inputs, output, kind, name);
    args_.kind = kind.kind;

    std::vector<Dims> strides;
    for (const TensorDesc& input : inputs) strides.push_back(broadcast_strides(input, output.shape));
    strides.resize(3, Dims(output.shape.size(), 0));
    strides.push_back(output.strides);
    std::vector<Axis> axes;
    for (int64_t i = 0; i < output.rank(); i++) {
      axes.push_back({output.shape[i], {}});
      for (const Dims& operand : strides) axes.back().strides.push_back(operand[i]);
    }
    axes = collapse(axes);
    if (axes.empty()) axes.push_back({1, Dims(4, 1)});
    require(axes.size() <= elementwise_max_axes, "operands that need more than 8 axes are not supported");
    args_.axes = static_cast<int>(axes.size());
    for (size_t i = 0; i < axes.size(); i++) {
      args_.sizes[i] = axes[i].size;
      for (size_t operand = 0; operand < 4; operand++) args_.strides[operand][i] = axes[i].strides[operand];
    }
    inputs_ = inputs.size();
  }

  void run(const Run& run, StepState*) const override {
    if (elements_ == 0) return;
    ElementwiseArgs args = args_;
    for (size_t i = 0; i < inputs_; i++) args.inputs[i] = run.slots[i];
    args.output = run.slots[inputs_];
    args.threads = threads_for(elements_, run.threads);
    kernel_(args);
  }

 private:
  void check_types(const std::vector<TensorDesc>& inputs, const TensorDesc& output, const Kind& kind, const std::string& name) {
    for (const TensorDesc& input : inputs) check_plain(input);
    check_plain(output);
    check_element(inputs.back());
    check_element(output);
    args_.dtype = inputs.back().dtype;
    args_.result = output.dtype;
    const size_t first = kind.kind == ElementwiseKind::where ? 1 : 0;
    if (first) require(inputs[0].dtype == DType::boolean, "the condition of where is not bool");
    for (size_t i = first; i < inputs.size(); i++) require(inputs[i].dtype == args_.dtype, name + " of two dtypes");
    require(kind.floats || !is_float(args_.dtype), name + " takes no floats");
    require(kind.booleans || args_.dtype != DType::boolean, name + " takes no bools");
    if (kind.truth)
      require(output.dtype == DType::boolean, name + " gives bool");
    else if (kind.kind != ElementwiseKind::convert)
      require(output.dtype == args_.dtype, name + " gives its operands' dtype");
  }

  void (*kernel_)(const ElementwiseArgs&);
  ElementwiseArgs args_{};
  size_t inputs_ = 0;
  int64_t elements_;
};

}  // namespace

std::shared_ptr<Step> make_elementwise(const std::vector<TensorDesc>& inputs, const TensorDesc& output, const std::string& kind) {
  return std::make_shared<ElementwiseStep>(inputs, output, kind);
}

}  // namespace drystone
