#include "torch/weight_gradient_plan.h"

#include <stdexcept>

#include "steps/winograd_gradient.h"
#include "torch/plans.h"

namespace drystone::torch {

using dnnl::memory;

namespace {

std::unique_ptr<Reorder> reorder(const memory::desc& from, const memory::desc& to) {
  return from == to ? nullptr : std::make_unique<Reorder>(from, to);
}

// Sums of all pairs of channels are read and written for some tiles at a time, and made into weights in the end.
bool pays(const ConvolutionProblem& p) {
  constexpr int64_t fewest = 64;
  return winograd_serves(p) && !p.transposed && tiles_of(p.output, 4) >= fewest;
}

}  // namespace

// A transposed convolution of x is the gradient of a convolution that makes x: what reads x there is its output's gradient here.
WeightGradientPlan::WeightGradientPlan(const WeightGradientProblem& problem)
    : threads_(problem.convolution.threads), transposed_(problem.convolution.transposed) {
  const ConvolutionProblem& p = problem.convolution;
  memory::desc x(p.x, memory::data_type::f32, p.x_strides), output(p.output, memory::data_type::f32, problem.gradient_strides);
  if (transposed_) std::swap(x, output);
  const memory::desc weights(p.weights, memory::data_type::f32, p.weights_strides);
  weights_ = static_cast<int64_t>(weights.get_size() / sizeof(float));
  const auto way = [&](std::unique_ptr<Step> step, const memory::desc& first, const memory::desc& second, const memory::desc& result) {
    return Way{std::move(step),  reorder(x, first), reorder(output, second), reorder(result, weights),
               first.get_size(), second.get_size(), result.get_size()};
  };

  auto step = std::make_unique<ConvolutionWeightGradient>(x.get_dims(), p.weights, output.get_dims(), p.stride, p.padding_l, p.padding_r,
                                                          p.dilation);
  if (step->implementation.starts_with("ref")) throw std::invalid_argument("oneDNN has no fast kernel");
  const memory::desc first = step->x(), second = step->output(), result = step->weights();
  onednn_ = way(std::move(step), first, second, result);
  if (!pays(p)) return;
  const TensorDesc source = TensorDesc::dense(DType::f32, blocked(), x.get_dims());
  const TensorDesc target = TensorDesc::dense(DType::f32, blocked(), output.get_dims());
  winograd_ =
      way(std::make_unique<WinogradWeightGradient>(source, p.weights, p.weights_strides, target, p.padding_l, p.padding_r, threads_),
          onednn_desc(source), onednn_desc(target), weights);
}

void WeightGradientPlan::run(const void* x, const void* gradient, void* result) const {
  if (transposed_) std::swap(x, gradient);
  if (winograd_.step) {
    run(winograd_, x, gradient, result);
    if (all_finite(result, DType::f32, weights_, threads_)) return;
  }
  run(onednn_, x, gradient, result);
}

void WeightGradientPlan::run(const Way& way, const void* x, const void* gradient, void* result) const {
  const Handle first = memory_of(way.first ? way.first_bytes : 0), second = memory_of(way.second ? way.second_bytes : 0);
  const Handle weights = memory_of(way.after ? way.after_bytes : 0);
  if (way.first) run_step(*way.first, {x, first.data()}, threads_);
  if (way.second) run_step(*way.second, {gradient, second.data()}, threads_);
  run_step(*way.step, {way.first ? first.data() : x, way.second ? second.data() : gradient, way.after ? weights.data() : result}, threads_);
  if (way.after) run_step(*way.after, {weights.data(), result}, threads_);
}

}  // namespace drystone::torch
