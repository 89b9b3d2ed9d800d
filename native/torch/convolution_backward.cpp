// The gradients of convolutions over three axes, and of transposed ones, in float32: that of x is a convolution itself, transposed or
// not, and runs as one does forward; that of the weights is oneDNN's; that of the bias is a sum.
#include <array>
#include <tuple>

#include "steps/reductions.h"
#include "torch/convolution_call.h"
#include "torch/operators.h"
#include "torch/plans.h"
#include "torch/rows.h"
#include "torch/thresholds.h"
#include "torch/weight_gradient_plan.h"

namespace drystone::torch {

namespace {

using Mask = std::array<bool, 3>;

// c10::OptionalArrayRef
struct OptionalIntegers {
  Integers list;
  bool has_value;
};

// Of x, weight and bias.
using ThreeTensors = std::tuple<Tensor, Tensor, Tensor>;
ThreeTensors (*torch_backward)(const Tensor& gradient, const Tensor& x, const Tensor& weight, OptionalIntegers bias_sizes, Integers stride,
                               Integers padding, Integers dilation, bool transposed, Integers output_padding, int64_t groups, Mask mask);

bool find_torch() {
  return find(torch_backward,
              "_ZN2at25compositeexplicitautograd20convolution_backwardERKNS_6TensorES3_S3_N3c1016OptionalArrayRefIlEENS4_8ArrayRefIlEES8_"
              "S8_bS8_lSt5arrayIbLm3EE");
}

Mask mask_of(const std::vector<bool>& list) { return {list.at(0), list.at(1), list.at(2)}; }

struct Call {
  Handle gradient, x, weight;  // read in the order in which they stand here
  std::optional<Dims> bias_sizes;
  ConvolutionGeometry geometry;
  Mask mask;

  explicit Call(Arguments& arguments)
      : gradient(arguments.tensor()),
        x(arguments.tensor()),
        weight(arguments.tensor()),
        bias_sizes(arguments.optional_integers()),
        geometry(arguments),
        mask(mask_of(arguments.booleans())) {}
};

// Over all axes but that of the channels.
Handle sum_of(const Handle& gradient, int threads) {
  const TensorDesc given{DType::f32, Format::plain, dims_of(gradient.sizes()), dims_of(gradient.strides())};
  Dims axes;
  for (int64_t axis = 0; axis < given.rank(); axis++)
    if (axis != 1) axes.push_back(axis);
  const TensorDesc sums = TensorDesc::dense(DType::f32, Format::plain, {given.shape[1]});
  Handle result = Handle::empty(ScalarType::f32, sums.shape);
  run_step(ReduceStep(given, sums, "sum", axes), {gradient.data(), result.data()}, threads);
  return result;
}

// Nothing where torch's kernel serves better, or is to say what is wrong. Of x, weight and bias those that are asked for.
Results<3> differentiated(const Call& call) {
  const auto p = problem_of(call.x, call.weight, call.geometry);
  if (!p || call.gradient.dtype() != ScalarType::f32 || dims_of(call.gradient.sizes()) != p->output) return {};
  if (call.mask[2] && call.bias_sizes != Dims{p->output[1]}) return {};
  const bool few_channels = p->x[1] < threshold(Threshold::convolution_gradient_channels);
  if (!call.weight.is_dense() || (call.mask[0] && !p->transposed && few_channels)) return {};
  Handle kept;
  const Handle& gradient = is_expanded(call.gradient) ? dense(call.gradient, kept) : call.gradient;
  const Dims strides = dims_of(gradient.strides());

  std::shared_ptr<const ConvolutionPlan> of_x;
  std::shared_ptr<const WeightGradientPlan> of_weight;
  if (call.mask[0] && !(of_x = plan_of<ConvolutionPlan>(input_gradient_of(*p, strides)))) return {};
  if (call.mask[1] && !(of_weight = plan_of<WeightGradientPlan>({*p, strides}))) return {};
  Handle x, weight, bias;
  if (of_x) {
    x = empty_map(p->x, p->channels_last);
    if (!of_x->run(gradient.data(), call.weight.data(), nullptr, x.data())) return {};
  }
  if (of_weight) {
    weight = Handle::empty(ScalarType::f32, p->weights, p->weights_strides);
    of_weight->run(call.x.data(), gradient.data(), weight.data());
  }
  if (call.mask[2]) bias = sum_of(gradient, p->threads);
  return results(x, weight, bias);
}

void kernel(Arguments& arguments) {
  const Call call{arguments};
  const ConvolutionGeometry& g = call.geometry;
  arguments.answer([&] { return differentiated(call); },
                   [&] {
                     const OptionalIntegers sizes = call.bias_sizes ? OptionalIntegers{ref(*call.bias_sizes), true} : OptionalIntegers{};
                     return torch_backward(*call.gradient, *call.x, *call.weight, sizes, ref(g.stride), ref(g.padding), ref(g.dilation),
                                           g.transposed, ref(g.output_padding), g.groups, call.mask);
                   });
}

const Entry<kernel> convolution_backward{"convolution", "convolution_backward",
                                         "(Tensor grad_output, Tensor input, Tensor weight, SymInt[]? bias_sizes, SymInt[] stride, "
                                         "SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups, "
                                         "bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
                                         find_torch};

}  // namespace

}  // namespace drystone::torch
