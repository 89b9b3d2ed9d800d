#include "steps/reductions.h"

#include <algorithm>
#include <stdexcept>

#include "steps/axes.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

enum Group { kept, reduced };

void append(Walk& walk, const Axis& axis) {
  if (walk.axes == walk_max_axes) throw std::invalid_argument("tensors that need more than 6 axes in memory are not supported");
  walk.sizes[walk.axes] = axis.size;
  for (size_t i = 0; i < axis.strides.size(); i++) walk.strides[i][walk.axes] = axis.strides[i];
  walk.axes++;
}

// The axes as they lie in the input's memory, merged where they can be, outermost first; never none.
std::vector<Axis> in_memory_order(std::vector<Axis> axes) {
  std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.strides[0] > b.strides[0]; });
  const size_t operands = axes.empty() ? 2 : axes[0].strides.size();
  axes = collapse(axes);
  if (axes.empty()) axes.push_back({1, Dims(operands, 1), reduced});
  return axes;
}

// The last axis becomes the inner one, the others the steps over what is kept and what is reduced.
template <typename Args>
void fill_walks(Args& args, const std::vector<Axis>& axes) {
  for (size_t i = 0; i + 1 < axes.size(); i++) append(axes[i].group == reduced ? args.reduced : args.kept, axes[i]);
  const Axis& last = axes.back();
  args.inner.size = last.size;
  std::copy(last.strides.begin(), last.strides.end(), args.inner.strides);
  args.inner_reduced = last.group == reduced;
}

void check_no_padding(const TensorDesc& desc, const std::string& name) {
  if (desc.has_padding()) throw std::invalid_argument(name + " (" + desc.str() + ") has padded channels");
}

void check_same_shape(const TensorDesc& input, const TensorDesc& output) {
  if (input.shape != output.shape)
    throw std::invalid_argument("input (" + input.str() + ") and output (" + output.str() + ") differ in shape");
}

void check_dims(const Dims& dims, int64_t rank) {
  for (size_t i = 0; i < dims.size(); i++)
    if (dims[i] < 0 || dims[i] >= rank || (i > 0 && dims[i] <= dims[i - 1]))
      throw std::invalid_argument("dims must be axes of the input, in rising order");
}

bool contains(const Dims& dims, int64_t axis) { return std::find(dims.begin(), dims.end(), axis) != dims.end(); }

// The axes of input and output (of equal rank), in logical order with the channels split into blocks; `dims` are the reduced ones.
std::vector<Axis> paired_axes(const TensorDesc& input, const TensorDesc& output, const Dims& dims) {
  const int64_t block = common_block(input, output);
  if (block > 1 && input.shape[1] % block != 0)
    throw std::invalid_argument(output.str() + " has blocks that " + input.str() + " does not fill");
  const Dims sizes = sizes_with_block(input.shape, block);
  const Dims from = strides_with_block(input, block), to = strides_with_block(output, block);
  std::vector<Axis> axes;
  for (size_t i = 0; i < sizes.size(); i++) {
    const int64_t logical = static_cast<int64_t>(i) - (block > 1 && i > 1);
    axes.push_back({sizes[i], {from[i], to[i]}, contains(dims, logical) ? reduced : kept});
  }
  return axes;
}

// The output with an axis of size 1 for each that was removed.
TensorDesc with_kept_dims(const TensorDesc& output, const TensorDesc& input, const Dims& dims) {
  TensorDesc full = output;
  if (output.rank() != input.rank()) {
    if (output.format.block > 1 && (contains(dims, 0) || contains(dims, 1)))
      throw std::invalid_argument("the channels of the output (" + output.str() + ") are another axis than the input's");
    for (int64_t dim : dims) {
      if (dim > full.rank()) break;
      full.shape.insert(full.shape.begin() + dim, 1);
      full.strides.insert(full.strides.begin() + dim, 0);
    }
  }
  Dims expected = input.shape;
  for (int64_t dim : dims) expected[dim] = 1;
  if (full.shape != expected)
    throw std::invalid_argument("the output (" + output.str() + ") is not " + input.str() + " reduced over these axes");
  return full;
}

}  // namespace

ReduceStep::ReduceStep(const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Dims& dims) {
  require_kernels();
  implementation = kernel_name("reduce");
  if (kind != "mean" && kind != "sum") throw std::invalid_argument("reduce takes the kinds mean and sum, not '" + kind + "'");
  check_operand_or_codes(input, "input");
  check_operand_or_codes(output, "output");
  check_no_padding(input, "input");
  check_no_padding(output, "output");
  check_dims(dims, input.rank());
  elements_ = input.numel();
  const TensorDesc full = with_kept_dims(output, input, dims);
  const std::vector<Axis> axes = in_memory_order(paired_axes(input, full, dims));
  fill_walks(args_, axes);
  args_.input_dtype = input.dtype;
  args_.output_dtype = output.dtype;
  args_.input_affine = input.affine();
  args_.output_affine = output.affine();

  int64_t outputs = 1, units = 1, items = 1;
  for (const Axis& axis : axes) (axis.group == reduced ? units : outputs) *= axis.size;
  args_.scale = kind == "mean" ? 1.0 / static_cast<double>(units) : 1.0;
  items = args_.inner_reduced ? outputs : (outputs + 63) / 64;
  args_.segments = items < 8 && elements_ >= 65536 ? std::min<int64_t>(16, (units + 255) / 256) : 1;
  if (args_.segments > 1) scratchpad_bytes = args_.segments * outputs * static_cast<int64_t>(sizeof(double));
}

void ReduceStep::run(const Run& run, StepState*) const {
  ReduceArgs args = args_;
  args.input = run.slots[0];
  args.output = run.slots[1];
  args.partials = reinterpret_cast<double*>(run.scratchpad);
  args.threads = threads_for(elements_, run.threads);
  kernels()->reduce(args);
}

SoftmaxStep::SoftmaxStep(const TensorDesc& input, const TensorDesc& output, int64_t dim) {
  require_kernels();
  implementation = kernel_name("softmax");
  check_operand(input, "input");
  check_operand(output, "output");
  check_same_shape(input, output);
  check_no_padding(input, "input");
  check_no_padding(output, "output");
  check_dims({dim}, input.rank());
  elements_ = input.numel();
  fill_walks(args_, in_memory_order(paired_axes(input, output, {dim})));
  args_.input_dtype = input.dtype;
  args_.output_dtype = output.dtype;
}

void SoftmaxStep::run(const Run& run, StepState*) const {
  if (elements_ == 0) return;
  SoftmaxArgs args = args_;
  args.input = run.slots[0];
  args.output = run.slots[1];
  args.threads = threads_for(elements_, run.threads);
  kernels()->softmax(args);
}

namespace {

// Strides of weight and bias, which must be the same; zeros where there is neither.
Dims parameter_strides(const std::optional<TensorDesc>& weight, const std::optional<TensorDesc>& bias, const Dims& shape) {
  Dims strides(shape.size(), 0);
  for (const auto* parameter : {&weight, &bias}) {
    if (!*parameter) continue;
    const TensorDesc& desc = **parameter;
    check_operand(desc, parameter == &weight ? "weight" : "bias");
    if (desc.format != Format::plain || desc.shape != shape)
      throw std::invalid_argument("weight and bias must be plain and of the shape that is normalised, not " + desc.str());
    if (parameter == &bias && weight && desc.strides != weight->strides) throw std::invalid_argument("weight and bias differ in strides");
    strides = desc.strides;
  }
  return strides;
}

std::vector<Axis> layer_axes(const TensorDesc& input, const TensorDesc& output, const Dims& dims, const Dims& parameters) {
  const int64_t block = common_block(input, output);
  std::vector<Axis> axes = paired_axes(input, output, dims);
  for (size_t i = 0; i < axes.size(); i++) {
    const int64_t logical = static_cast<int64_t>(i) - (block > 1 && i > 1);
    const auto found = std::find(dims.begin(), dims.end(), logical);
    int64_t stride = found == dims.end() ? 0 : parameters[found - dims.begin()];
    if (block > 1 && i == 1) stride *= block;
    axes[i].strides.push_back(stride);
  }
  return axes;
}

// The channels are kept, all else is reduced.
std::vector<Axis> channel_axes(const TensorDesc& input, const TensorDesc& output, int64_t parameter) {
  if (common_block(input, output) > 1) throw std::invalid_argument("a batch norm takes plain tensors and channels_last ones");
  Dims dims;
  for (int64_t i = 0; i < input.rank(); i++)
    if (i != 1) dims.push_back(i);
  std::vector<Axis> axes = paired_axes(input, output, dims);
  for (Axis& axis : axes) axis.strides.push_back(axis.group == kept ? parameter : 0);
  return axes;
}

// The channels are split into groups (kept) and channels of a group (reduced), and these at the borders of the format's blocks.
std::vector<Axis> group_axes(const TensorDesc& input, const TensorDesc& output, int64_t groups, int64_t parameter) {
  const int64_t block = common_block(input, output), members = input.shape[1] / groups;
  Dims spatial;
  for (int64_t i = 2; i < input.rank(); i++) spatial.push_back(i);
  std::vector<Axis> axes = paired_axes(input, output, spatial);
  for (Axis& axis : axes) axis.strides.push_back(0);
  const auto times = [](Dims strides, int64_t factor) {
    for (int64_t& stride : strides) stride *= factor;
    return strides;
  };
  std::vector<Axis> channels;
  Dims inner = axes[block > 1 ? 2 : 1].strides;
  inner[2] = parameter;
  if (block == 1) {
    channels = {{groups, times(inner, members), kept}, {members, inner, reduced}};
  } else {
    Dims outer = axes[1].strides;
    outer[2] = parameter * block;
    if (members % block == 0)
      channels = {{groups, times(outer, members / block), kept}, {members / block, outer, reduced}, {block, inner, reduced}};
    else if (block % members == 0)
      channels = {{input.shape[1] / block, outer, kept}, {block / members, times(inner, members), kept}, {members, inner, reduced}};
    else
      throw std::invalid_argument("groups of " + std::to_string(members) + " channels do not fit blocks of " + std::to_string(block));
  }
  axes.erase(axes.begin() + 1, axes.begin() + (block > 1 ? 3 : 2));
  axes.insert(axes.begin() + 1, channels.begin(), channels.end());
  return axes;
}

// Where the channels of a group are innermost and few, all groups go side by side. Returns how many neighbours share statistics.
int64_t merge_groups(std::vector<Axis>& axes) {
  constexpr int64_t few = 64;
  if (axes.size() < 2) return 1;
  const Axis members = axes.back(), groups = axes[axes.size() - 2];
  if (members.group != reduced || groups.group != kept || members.size > few) return 1;
  for (size_t i = 0; i < members.strides.size(); i++)
    if (groups.strides[i] != members.strides[i] * members.size) return 1;
  axes.pop_back();
  axes.back() = {groups.size * members.size, members.strides, kept};
  return members.size;
}

// Short rows that follow each other in memory and have the same weights (the pixels of a block of channels) become one axis.
// Returns after how many elements of the inner axis the weights repeat. The kernel's tiles are multiples of these periods.
int64_t join_rows(std::vector<Axis>& axes) {
  if (axes.empty()) return 1;
  const Axis inner = axes.back();
  if (axes.size() < 2 || inner.group != reduced || (inner.size != 8 && inner.size != 16)) return inner.size;
  const Axis rows = axes[axes.size() - 2];
  const bool adjacent = rows.strides[0] == inner.size * inner.strides[0] && rows.strides[1] == inner.size * inner.strides[1];
  if (rows.group != reduced || !adjacent || rows.strides[2] != 0) return inner.size;
  axes.pop_back();
  axes.back() = {rows.size * inner.size, inner.strides, reduced};
  return inner.size;
}

}  // namespace

NormStep::NormStep(const TensorDesc& input, const std::optional<TensorDesc>& weight, const std::optional<TensorDesc>& bias,
                   const TensorDesc& output, const NormAttributes& attributes)
    : has_weight_(weight), has_bias_(bias), statistics_(attributes.statistics) {
  require_kernels();
  implementation = kernel_name("norm");
  check_operand(input, "input");
  check_operand_or_codes(output, "output");
  check_same_shape(input, output);
  check_no_padding(input, "input");
  check_no_padding(output, "output");
  elements_ = input.numel();

  std::vector<Axis> axes;
  args_.merged = 1;
  args_.centred = attributes.kind != "rms";
  if (attributes.kind == "layer" || attributes.kind == "rms") {
    check_dims(attributes.dims, input.rank());
    if (attributes.dims.empty()) throw std::invalid_argument("a layer norm needs axes");
    Dims shape;
    for (int64_t dim : attributes.dims) shape.push_back(input.shape[dim]);
    axes = in_memory_order(layer_axes(input, output, attributes.dims, parameter_strides(weight, bias, shape)));
  } else if (attributes.kind == "group") {
    if (input.rank() < 2) throw std::invalid_argument("a group norm needs channels");
    const int64_t channels = input.shape[1], groups = attributes.groups;
    if (groups < 1 || channels % groups != 0)
      throw std::invalid_argument(std::to_string(channels) + " channels are not " + std::to_string(groups) + " equal groups");
    const int64_t stride = parameter_strides(weight, bias, {channels})[0];
    if (elements_ > 0) axes = in_memory_order(group_axes(input, output, groups, stride));
    args_.merged = merge_groups(axes);
  } else if (attributes.kind == "batch") {
    if (input.rank() < 2) throw std::invalid_argument("a batch norm needs channels");
    axes = in_memory_order(channel_axes(input, output, parameter_strides(weight, bias, {input.shape[1]})[0]));
  } else {
    throw std::invalid_argument("norm takes the kinds layer, rms, group and batch, not '" + attributes.kind + "'");
  }
  args_.period = join_rows(axes);
  if (elements_ > 0) fill_walks(args_, axes);
  if (statistics_ && !args_.inner_reduced) throw std::invalid_argument("a norm gives statistics of its innermost axis");
  args_.input_dtype = input.dtype;
  args_.output_dtype = output.dtype;
  args_.output_affine = output.affine();
  if (weight) args_.weight_dtype = weight->dtype;
  if (bias) args_.bias_dtype = bias->dtype;
  args_.eps = attributes.eps;
}

void NormStep::run(const Run& run, StepState*) const {
  if (elements_ == 0) return;
  NormArgs args = args_;
  void* const* slot = run.slots;
  args.input = *slot++;
  args.weight = has_weight_ ? *slot++ : nullptr;
  args.bias = has_bias_ ? *slot++ : nullptr;
  args.output = *slot++;
  if (statistics_) {
    args.means = static_cast<float*>(*slot++);
    args.deviations = static_cast<float*>(*slot++);
    args.variances = static_cast<float*>(*slot);
  }
  args.threads = threads_for(elements_, run.threads);
  kernels()->norm(args);
}

std::shared_ptr<Step> make_reduce(const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Dims& dims) {
  return std::make_shared<ReduceStep>(input, output, kind, dims);
}

std::shared_ptr<Step> make_softmax(const TensorDesc& input, const TensorDesc& output, int64_t dim) {
  return std::make_shared<SoftmaxStep>(input, output, dim);
}

std::shared_ptr<Step> make_norm(const TensorDesc& input, const std::optional<TensorDesc>& weight, const std::optional<TensorDesc>& bias,
                                const TensorDesc& output, const std::string& kind, const Dims& dims, int64_t groups, double eps) {
  return std::make_shared<NormStep>(input, weight, bias, output, NormAttributes{kind, dims, groups, eps});
}

}  // namespace drystone
