#include "steps/pointwise.h"

#include <algorithm>
#include <map>
#include <span>
#include <stdexcept>

#include "steps/axes.h"
#include "steps/kernel_step.h"

namespace drystone {

namespace {

struct Kind {
  PointwiseKind kind;
  size_t operands;
};

#define UNARY(name, ...) {#name, {PointwiseKind::name, 1}},
#define BINARY(name, ...) {#name, {PointwiseKind::name, 2}},
const std::map<std::string, Kind> kinds = {DRYSTONE_INSTRUCTIONS(UNARY, UNARY, UNARY, BINARY)};
#undef UNARY
#undef BINARY

PointwiseKind specialise(PointwiseKind kind, float alpha) {
  if (kind != PointwiseKind::pow) return kind;
  if (alpha == 1.0f) return PointwiseKind::copy;
  if (alpha == 2.0f) return PointwiseKind::square;
  if (alpha == 0.5f) return PointwiseKind::sqrt;
  if (alpha == -0.5f) return PointwiseKind::rsqrt;
  if (alpha == -1.0f) return PointwiseKind::reciprocal;
  return kind;
}

// Axes of the output as they lie in memory, the channels split into blocks.
std::vector<size_t> memory_order(const TensorDesc& output, int64_t block) {
  std::vector<size_t> order;
  for (int64_t axis : axes_in_memory(output.format, output.rank())) order.push_back(axis + (block > 1 && axis > 1));
  if (block > 1) order.push_back(2);
  return order;
}

// Strides of an input along the output's axes: aligned at the right, 0 where it is broadcast.
Dims broadcast_strides(const TensorDesc& input, const TensorDesc& output, int64_t block, const std::string& name) {
  const int64_t missing = output.rank() - input.rank();
  const std::string refusal = name + " (" + input.str() + ") does not broadcast to " + output.str();
  if (missing < 0) throw std::invalid_argument(refusal);
  for (int64_t i = 0; i < input.rank(); i++)
    if (input.shape[i] != 1 && input.shape[i] != output.shape[i + missing]) throw std::invalid_argument(refusal);
  if (missing > 0 && input.format != Format::plain)
    throw std::invalid_argument(name + " has a lower rank than the output and is not plain");

  TensorDesc aligned = input;
  aligned.shape.insert(aligned.shape.begin(), missing, 1);
  aligned.strides.insert(aligned.strides.begin(), missing, 0);
  return strides_with_block(aligned, block);
}

// An input of another format must still lie in the output's order, or each block would gather from all over it.
void check_order(const TensorDesc& input, const TensorDesc& output, const std::vector<Axis>& axes, size_t operand,
                 const std::string& name) {
  if (input.format == output.format) return;
  int64_t last = INT64_MAX;
  for (const Axis& axis : axes) {
    const int64_t stride = axis.strides[operand];
    if (axis.size == 1 || stride == 0) continue;
    if (stride > last)
      throw std::invalid_argument(name + " (" + input.str() + ") does not lie in the order of the output (" + output.str() + ")");
    last = stride;
  }
}

// The output is the last of the operands, and of the slots.
void run_chain(std::span<const int64_t> sizes, std::span<const PointwiseOperand> operands, std::span<const PointwiseInstruction> program,
               void* const* slots, int threads) {
  PointwiseArgs args{};
  args.axes = static_cast<int>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), args.sizes);
  args.inputs = static_cast<int>(operands.size()) - 1;
  args.operands = operands.data();
  args.instructions = static_cast<int>(program.size());
  args.program = program.data();
  args.slots = slots;
  args.threads = threads;
  kernels()->pointwise(args);
}

}  // namespace

PointwiseKind pointwise_kind(const std::string& name, size_t operands, float alpha) {
  const auto found = kinds.find(name);
  if (found == kinds.end()) throw std::invalid_argument("unknown pointwise instruction '" + name + "'");
  if (operands != found->second.operands)
    throw std::invalid_argument("pointwise instruction " + name + " takes " + std::to_string(found->second.operands) + " operands, not " +
                                std::to_string(operands));
  return specialise(found->second.kind, alpha);
}

PointwiseInstruction epilogue_instruction(const PostOp& op) {
  const bool sum = op.kind == "sum";
  return {pointwise_kind(sum ? "add" : op.kind, sum || op.operand ? 2 : 1, op.alpha), 0, 1, 0, op.alpha, op.beta};
}

PointwiseStep::PointwiseStep(const std::vector<TensorDesc>& inputs, const TensorDesc& output, const std::vector<PointwiseOp>& ops)
    : inputs_(static_cast<int>(inputs.size())) {
  require_kernels();
  implementation = kernel_name("pointwise");
  check_operand_or_codes(output, "output");
  const int64_t block = output.format.block;
  if (output.has_padding()) throw std::invalid_argument("output (" + output.str() + ") has padded channels");
  elements_ = output.numel();

  std::vector<Dims> strides;
  for (size_t i = 0; i < inputs.size(); i++) {
    const std::string name = "input " + std::to_string(i);
    check_operand_or_codes(inputs[i], name);
    strides.push_back(broadcast_strides(inputs[i], output, block, name));
  }
  strides.push_back(strides_with_block(output, block));

  const Dims sizes = sizes_with_block(output.shape, block);
  std::vector<Axis> axes;
  for (size_t i : memory_order(output, block)) {
    Axis axis{sizes[i], {}};
    for (const Dims& operand : strides) axis.strides.push_back(operand[i]);
    axes.push_back(axis);
  }
  for (size_t i = 0; i < inputs.size(); i++) check_order(inputs[i], output, axes, i, "input " + std::to_string(i));

  axes = collapse(axes);
  while (axes.size() < 2) axes.insert(axes.begin(), {1, Dims(strides.size(), 0)});
  if (axes.size() > pointwise_max_axes) throw std::invalid_argument("operands that need more than 8 axes are not supported");
  operands_.resize(strides.size());
  for (size_t i = 0; i < strides.size(); i++) {
    const TensorDesc& desc = i < inputs.size() ? inputs[i] : output;
    operands_[i].dtype = desc.dtype;
    operands_[i].affine = desc.affine();
    for (size_t axis = 0; axis < axes.size(); axis++) operands_[i].strides[axis] = axes[axis].strides[i];
  }
  for (const Axis& axis : axes) sizes_.push_back(axis.size);
  translate(ops);
}

// Checks the instructions and gives each result a register; a register is free again after the last reading of its value.
void PointwiseStep::translate(const std::vector<PointwiseOp>& ops) {
  if (ops.empty()) throw std::invalid_argument("pointwise needs at least one instruction");
  std::vector<size_t> last_reading(ops.size(), 0);
  for (size_t i = 0; i < ops.size(); i++) {
    pointwise_kind(ops[i].kind, ops[i].operands.size(), ops[i].alpha);
    for (const auto& [where, index] : ops[i].operands) {
      const bool known = (where == "in" && index >= 0 && index < inputs_) || (where == "reg" && index >= 0 && index < static_cast<int>(i));
      if (!known) throw std::invalid_argument("pointwise instruction " + ops[i].kind + " reads " + where + " " + std::to_string(index));
      if (where == "reg") last_reading[index] = i;
    }
  }

  std::vector<int> register_of(ops.size()), free;
  int next = inputs_;
  for (size_t i = 0; i < ops.size(); i++) {
    const auto source = [&](size_t operand) {
      const auto& [where, index] = ops[i].operands[operand];
      return where == "in" ? index : register_of[index];
    };
    const int a = source(0), b = ops[i].operands.size() > 1 ? source(1) : a;
    // The result may take the place of an operand that is read here for the last time: every instruction goes element by element.
    for (size_t j = 0; j < i; j++)
      if (last_reading[j] == i) free.push_back(register_of[j]);
    if (free.empty()) free.push_back(next++);
    register_of[i] = free.back();
    free.pop_back();
    if (last_reading[i] <= i) free.push_back(register_of[i]);  // nothing reads it, or only the output does
    const PointwiseKind kind = pointwise_kind(ops[i].kind, ops[i].operands.size(), ops[i].alpha);
    program_.push_back({kind, a, b, register_of[i], ops[i].alpha, ops[i].beta});
  }
  if (next > pointwise_max_buffers)
    throw std::invalid_argument("a pointwise chain that needs " + std::to_string(next) + " buffers is too long");
}

void PointwiseStep::run(const Run& run, StepState*) const {
  if (elements_ > 0) run_chain(sizes_, operands_, program_, run.slots, threads_for(elements_, run.threads));
}

void run_instruction(PointwiseKind kind, DType dtype, int64_t elements, void* input, void* output, int threads) {
  const PointwiseOperand operands[] = {{dtype, {0, 1}}, {dtype, {0, 1}}};
  const PointwiseInstruction program[] = {{kind, 0, 0, 1, 0.0f, 0.0f}};
  const int64_t sizes[] = {1, elements};
  void* const slots[] = {input, output};
  run_chain(sizes, operands, program, slots, threads);
}

}  // namespace drystone
