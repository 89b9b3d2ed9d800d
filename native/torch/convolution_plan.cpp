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

// A few channels are read from plain memory, by kernels that write blocks of channels; all else is fastest in channels_last.
bool of_image(const ConvolutionProblem& p) { return !p.transposed && p.x[1] < 4; }
Format blocked() { return isa() >= Isa::avx512 ? Format::blocked16 : Format::blocked8; }

Dims outputs_first(Dims weights, bool transposed) {
  if (transposed) std::swap(weights[0], weights[1]);
  return weights;
}

}  // namespace

ConvolutionPlan::ConvolutionPlan(const ConvolutionProblem& p)
    : threads_(p.threads),
      source_(TensorDesc::dense(DType::f32, of_image(p) ? Format::plain : Format::channels_last, p.x)),
      target_(TensorDesc::dense(DType::f32, of_image(p) ? blocked() : Format::channels_last, p.output)),
      convolution_(source_, outputs_first(p.weights, p.transposed), p.has_bias, target_, p.stride, p.padding_l, p.padding_r, p.dilation, 1,
                   {}, p.transposed) {
  const std::string& name = convolution_.implementation;
  if (name.starts_with("ref") || name.starts_with("conv:any")) throw std::invalid_argument("oneDNN has no fast kernel");
  weights_ = dnnl::memory::desc(outputs_first(p.weights, p.transposed), dnnl::memory::data_type::f32,
                                outputs_first(p.weights_strides, p.transposed));
  const TensorDesc given{DType::f32, Format::plain, p.x, p.x_strides};
  const TensorDesc wanted = TensorDesc::dense(DType::f32, p.channels_last ? Format::channels_last : Format::plain, p.output);
  if (p.x_strides != source_.strides) before_ = std::make_unique<Reorder>(given, source_);
  if (!same_memory(target_, wanted)) after_ = std::make_unique<Reorder>(target_, wanted);
}

void ConvolutionPlan::run(const void* x, const void* weights, const void* bias, void* output) const {
  const Handle source = memory_of(before_ ? source_.bytes() : 0), target = memory_of(after_ ? target_.bytes() : 0);
  const Handle packed = memory_of(convolution_.weights().bytes());
  convolution_.weights().pack(weights_, weights, packed.data());
  if (before_) run_step(*before_, {x, source.data()}, threads_);
  run_step(convolution_, {before_ ? source.data() : x, packed.data(), bias, after_ ? target.data() : output}, threads_);
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
