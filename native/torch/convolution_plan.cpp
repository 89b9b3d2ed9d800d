#include "torch/convolution_plan.h"

#include <list>
#include <stdexcept>

#include "core/isa.h"
#include "torch/forkable_mutex.h"

namespace drystone::torch {

namespace {

constexpr size_t kept = 128;  // problems
// Not made at the first call: a process that forks meanwhile would leave its child with half a mutex.
ForkableMutex guard;
std::list<std::pair<ConvolutionProblem, std::shared_ptr<const ConvolutionPlan>>> entries;  // the last used first

Handle memory_of(int64_t bytes) { return Handle::empty(ScalarType::u8, {std::max<int64_t>(bytes, 1)}); }

void run_step(const Step& step, std::initializer_list<const void*> operands, int threads) {
  std::vector<void*> slots;
  for (const void* operand : operands)
    if (operand) slots.push_back(const_cast<void*>(operand));
  const Handle scratchpad = memory_of(step.scratchpad_bytes);
  const auto state = step.make_state();
  step.run({slots.data(), static_cast<std::byte*>(scratchpad.data()), threads}, state.get());
}

Format blocked() { return isa() >= Isa::avx512 ? Format::blocked16 : Format::blocked8; }

Dims outputs_first(Dims weights, bool transposed) {
  if (transposed) std::swap(weights[0], weights[1]);
  return weights;
}

// 2, 4, or 0 where Winograd's convolution does not serve the problem or does not pay: it has a multiple of the weights to make and to
// read, which takes as long as it saves with some 64 tiles.
int winograd_tile(const ConvolutionProblem& p) {
  constexpr int64_t fewest = 128;
  const size_t rank = p.x.size(), spatial = rank - 2;
  if (spatial < 2 || p.x[1] % 16 || p.output[1] % 16) return 0;
  for (size_t i = 0; i < spatial; i++) {
    const int64_t k = p.weights[2 + i], padding = p.transposed ? k - 1 - p.padding_l[i] : p.padding_l[i];
    const bool served = k == 3 || (k == 1 && spatial == 3 && i == 0);
    if (!served || p.stride[i] != 1 || p.dilation[i] != 1 || p.padding_l[i] != p.padding_r[i] || padding < 0 || padding > k / 2) return 0;
  }
  for (int tile : {4, 2}) {
    int64_t tiles = p.output[0] * (spatial == 3 ? p.output[2] : 1);
    for (size_t axis = rank - 2; axis < rank; axis++) tiles *= (p.output[axis] + tile - 1) / tile;
    if (tiles >= fewest) return tile;
  }
  return 0;
}

}  // namespace

ConvolutionPlan::ConvolutionPlan(const ConvolutionProblem& p)
    : threads_(p.threads),
      weights_(outputs_first(p.weights, p.transposed)),
      strides_(outputs_first(p.weights_strides, p.transposed)),
      turned_(p.transposed) {
  const auto tensors = [&](Format source, Format target) {
    source_ = TensorDesc::dense(DType::f32, source, p.x);
    target_ = TensorDesc::dense(DType::f32, target, p.output);
  };
  if (const int tile = winograd_tile(p)) {
    // Reorders from plain memory to blocks of channels and back are the fastest.
    const Format format = p.channels_last ? Format::channels_last : blocked();
    tensors(format, format);
    Dims padding = p.padding_l;
    for (size_t i = 0; turned_ && i < padding.size(); i++) padding[i] = weights_[2 + i] - 1 - padding[i];
    winograd_ = std::make_unique<Winograd>(source_, weights_, p.has_bias, target_, padding, padding, tile, std::vector<PostOp>());
  } else {
    // A few channels are read from plain memory, by kernels that write blocks of channels; all else is fastest in channels_last.
    const bool image = !p.transposed && p.x[1] < 4;
    tensors(image ? Format::plain : Format::channels_last, image ? blocked() : Format::channels_last);
    convolution_ = std::make_unique<Convolution>(source_, weights_, p.has_bias, target_, p.stride, p.padding_l, p.padding_r, p.dilation, 1,
                                                 std::vector<PostOp>(), p.transposed);
    const std::string& name = convolution_->implementation;
    if (name.starts_with("ref") || name.starts_with("conv:any")) throw std::invalid_argument("oneDNN has no fast kernel");
  }
  const TensorDesc given{DType::f32, Format::plain, p.x, p.x_strides};
  const TensorDesc wanted = TensorDesc::dense(DType::f32, p.channels_last ? Format::channels_last : Format::plain, p.output);
  if (source_.format == blocked() || p.x_strides != source_.strides) before_ = std::make_unique<Reorder>(given, source_);
  if (!same_memory(target_, wanted)) after_ = std::make_unique<Reorder>(target_, wanted);
}

void ConvolutionPlan::pack(const void* weights, void* packed) const {
  if (convolution_) {
    return convolution_->weights().pack(dnnl::memory::desc(weights_, dnnl::memory::data_type::f32, strides_), weights, packed);
  }
  // The transposed convolution is one with the weights turned round.
  const float* from = static_cast<const float*>(weights);
  Dims strides = strides_;
  for (size_t axis = 2; turned_ && axis < strides.size(); axis++) {
    from += (weights_[axis] - 1) * strides[axis];
    strides[axis] = -strides[axis];
  }
  winograd_->pack(from, strides, threads_, packed);
}

void ConvolutionPlan::run(const void* x, const void* weights, const void* bias, void* output) const {
  const Handle source = memory_of(before_ ? source_.bytes() : 0), target = memory_of(after_ ? target_.bytes() : 0);
  const Handle packed = memory_of(winograd_ ? winograd_->packed_bytes() : convolution_->weights().bytes());
  pack(weights, packed.data());
  if (before_) run_step(*before_, {x, source.data()}, threads_);
  run_step(step(), {before_ ? source.data() : x, packed.data(), bias, after_ ? target.data() : output}, threads_);
  if (after_) run_step(*after_, {target.data(), output}, threads_);
}

std::shared_ptr<const ConvolutionPlan> plan_of(const ConvolutionProblem& problem) {
  {
    std::lock_guard lock(guard);
    for (auto entry = entries.begin(); entry != entries.end(); ++entry) {
      if (entry->first != problem) continue;
      entries.splice(entries.begin(), entries, entry);
      return entry->second;
    }
  }
  std::shared_ptr<const ConvolutionPlan> plan;
  try {
    plan = std::make_shared<ConvolutionPlan>(problem);
  } catch (const std::invalid_argument&) {
  } catch (const dnnl::error&) {
  }
  std::lock_guard lock(guard);
  entries.emplace_front(problem, plan);
  if (entries.size() > kept) entries.pop_back();
  return plan;
}

}  // namespace drystone::torch
