#include "torch/convolution_plan.h"

#include <stdexcept>

#include "steps/side_by_side.h"
#include "steps/winograd.h"
#include "torch/plans.h"

namespace drystone::torch {

namespace {

Dims outputs_first(Dims weights, bool transposed) {
  if (transposed) std::swap(weights[0], weights[1]);
  return weights;
}

// 2, 4, or 0 where Winograd's convolution does not serve the problem or does not pay: it has a multiple of the weights to make and to
// read, which takes longer than it saves below so many tiles.
int winograd_tile(const ConvolutionProblem& p) {
  constexpr int64_t fewest = 64;
  if (!winograd_serves(p)) return 0;
  for (int tile : {4, 2})
    if (tiles_of(p.output, tile) >= fewest) return tile;
  return 0;
}

// Windows that lie side by side, in plain memory, which oneDNN would have in another order.
bool is_side_by_side(const ConvolutionProblem& p) {
  const auto plain = [](const Dims& shape) { return TensorDesc::dense(DType::f32, Format::plain, shape).strides; };
  const int64_t width = p.weights.back();
  if (p.channels_last || p.x_strides != plain(p.x) || p.weights_strides != plain(p.weights)) return false;
  for (size_t i = 0; i < p.stride.size(); i++)
    if (p.stride[i] != p.weights[2 + i] || p.dilation[i] != 1 || p.padding_l[i] || p.padding_r[i]) return false;
  return width == 1 || width == 2 || width == 4;
}

}  // namespace

bool winograd_serves(const ConvolutionProblem& p) {
  const size_t spatial = p.stride.size();
  if (spatial < 2 || p.x[1] % 16 || p.output[1] % 16) return false;
  for (size_t i = 0; i < spatial; i++) {
    const int64_t k = p.weights[2 + i], padding = p.transposed ? k - 1 - p.padding_l[i] : p.padding_l[i];
    const bool served = k == 3 || (k == 1 && spatial == 3 && i == 0);
    if (!served || p.stride[i] != 1 || p.dilation[i] != 1 || p.padding_l[i] != p.padding_r[i] || padding < 0 || padding >= k) return false;
  }
  return true;
}

int64_t tiles_of(const Dims& output, int64_t tile) {
  const size_t rank = output.size();
  const auto across = [&](size_t axis) { return (output[axis] + tile - 1) / tile; };
  return output[0] * (rank == 5 ? output[2] : 1) * across(rank - 2) * across(rank - 1);
}

ConvolutionPlan::ConvolutionPlan(const ConvolutionProblem& p) : threads_(p.threads) {
  if (is_side_by_side(p)) {
    use_side_by_side(p);
  } else if (const int tile = winograd_tile(p)) {
    use_winograd(p, tile);
  } else {
    use_onednn(p);
  }
  const TensorDesc given{DType::f32, Format::plain, p.x, p.x_strides};
  const TensorDesc wanted = TensorDesc::dense(DType::f32, p.channels_last ? Format::channels_last : Format::plain, p.output);
  if (source_.format == blocked() || p.x_strides != source_.strides) before_ = std::make_unique<Reorder>(given, source_);
  if (!same_memory(target_, wanted)) after_ = std::make_unique<Reorder>(target_, wanted);
}

void ConvolutionPlan::work_in(const ConvolutionProblem& p, Format source, Format target) {
  source_ = TensorDesc::dense(DType::f32, source, p.x);
  target_ = TensorDesc::dense(DType::f32, target, p.output);
}

void ConvolutionPlan::use_side_by_side(const ConvolutionProblem& p) {
  work_in(p, Format::plain, Format::plain);
  step_ = std::make_unique<SideBySide>(p.x, p.weights, p.output, p.transposed, p.has_bias, p.threads);
}

void ConvolutionPlan::use_winograd(const ConvolutionProblem& p, int tile) {
  // Reorders from plain memory to blocks of channels and back are the fastest.
  const Format format = p.channels_last ? Format::channels_last : blocked();
  work_in(p, format, format);
  const Dims weights = outputs_first(p.weights, p.transposed);
  Dims strides = outputs_first(p.weights_strides, p.transposed), padding = p.padding_l;
  int64_t first = 0;
  // The transposed convolution is one with the weights turned round.
  for (size_t i = 0; p.transposed && i < padding.size(); i++) {
    padding[i] = weights[2 + i] - 1 - padding[i];
    first += (weights[2 + i] - 1) * strides[2 + i];
    strides[2 + i] = -strides[2 + i];
  }
  auto step = std::make_unique<Winograd>(source_, weights, p.has_bias, target_, padding, padding, tile, std::vector<PostOp>());
  packed_bytes_ = step->packed_bytes();
  transforms_ = true;
  pack_ = [step = step.get(), strides, first, threads = p.threads](const void* from, void* packed) {
    step->pack(static_cast<const float*>(from) + first, strides, threads, packed);
  };
  step_ = std::move(step);
}

void ConvolutionPlan::use_onednn(const ConvolutionProblem& p) {
  const bool image = !p.transposed && p.x[1] < 4, apart = p.weights.back() <= p.stride.back();
  if (image) {  // a few channels are read from plain memory, by kernels that write blocks of channels
    work_in(p, Format::plain, blocked());
  } else if (apart && !p.transposed && !p.channels_last && p.x[1] % 16 == 0 && p.output[1] % 16 == 0) {
    // Where neighbours in a row share no input, kernels are as fast on blocks of channels, and the reorders faster.
    work_in(p, blocked(), blocked());
  } else {
    work_in(p, Format::channels_last, Format::channels_last);
  }
  const Dims weights = outputs_first(p.weights, p.transposed), strides = outputs_first(p.weights_strides, p.transposed);
  auto step = std::make_unique<Convolution>(source_, weights, p.has_bias, target_, p.stride, p.padding_l, p.padding_r, p.dilation, 1,
                                            std::vector<PostOp>(), p.transposed);
  const std::string& name = step->implementation;
  if (name.starts_with("ref") || name.starts_with("conv:any")) throw std::invalid_argument("oneDNN has no fast kernel");
  packed_bytes_ = step->weights().bytes();
  pack_ = [step = step.get(), plain = dnnl::memory::desc(weights, dnnl::memory::data_type::f32, strides)](const void* from, void* packed) {
    step->weights().pack(plain, from, packed);
  };
  step_ = std::move(step);
}

bool ConvolutionPlan::run(const void* x, const void* weights, const void* bias, void* output) const {
  const Handle source = memory_of(before_ ? source_.bytes() : 0), target = memory_of(after_ ? target_.bytes() : 0);
  const Handle packed = memory_of(packed_bytes_);
  if (pack_) pack_(weights, packed.data());
  if (transforms_ && !all_finite(packed.data(), DType::f32, packed_bytes_ / 4, threads_)) return false;
  if (before_) run_step(*before_, {x, source.data()}, threads_);
  run_step(*step_, {before_ ? source.data() : x, pack_ ? packed.data() : weights, bias, after_ ? target.data() : output}, threads_);
  if (after_) run_step(*after_, {target.data(), output}, threads_);
  return true;
}

ConvolutionProblem input_gradient_of(const ConvolutionProblem& problem, const Dims& gradient_strides) {
  ConvolutionProblem p = problem;
  p.transposed = !problem.transposed;
  p.x = problem.output;
  p.x_strides = gradient_strides;
  p.output = problem.x;
  p.has_bias = false;
  p.padding_r = p.padding_l;
  for (size_t i = 0; p.transposed && i < p.stride.size(); i++) {
    const int64_t reach = p.dilation[i] * (p.weights[2 + i] - 1) + 1;
    p.padding_r[i] = (p.x[2 + i] - 1) * p.stride[i] + reach - p.padding_l[i] - p.output[2 + i];
  }
  return p;
}

}  // namespace drystone::torch
