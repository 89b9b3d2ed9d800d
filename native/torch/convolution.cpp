// convolution in float32: over three axes, and transposed over one to three. torch leaves these to an unfolding kernel, which
// multiplies image by image, or to oneDNN's direct convolution, whose primitives are made anew at each call. Every other convolution is
// torch's.
#include <memory>

#include "torch/convolution_call.h"
#include "torch/operators.h"
#include "torch/plans.h"

namespace drystone::torch {

namespace {

Tensor (*torch_convolution)(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, Integers stride, Integers padding,
                            Integers dilation, bool transposed, Integers output_padding, int64_t groups);

const std::shared_ptr<void>& (*tracing_state)();

bool find_torch() {
  return find(torch_convolution,
              "_ZN2at25compositeexplicitautograd11convolutionERKNS_6TensorES3_RKSt8optionalIS1_EN3c108ArrayRefIlEESA_SA_bSA_l") &&
         find(tracing_state, "_ZN5torch3jit6tracer15getTracingStateEv");
}

// torch.jit.trace records a convolution not by this name, but by that of the operator which torch's own kernel calls.
bool is_traced() { return tracing_state() != nullptr; }

struct Call {
  Handle x, weight, bias;  // read in the order in which they stand here
  ConvolutionGeometry geometry;

  explicit Call(Arguments& arguments)
      : x(arguments.tensor()), weight(arguments.tensor()), bias(arguments.optional_tensor()), geometry(arguments) {}
};

// An empty handle where torch's kernel serves better, or is to say what is wrong.
Handle convolved(const Call& call) {
  std::optional<ConvolutionProblem> p = problem_of(call.x, call.weight, call.geometry);
  if (!p) return Handle();
  p->has_bias = static_cast<bool>(call.bias);
  if (p->has_bias &&
      (call.bias.dtype() != ScalarType::f32 || !call.bias.is_contiguous() || dims_of(call.bias.sizes()) != Dims{p->output[1]}))
    return Handle();
  const auto plan = plan_of<ConvolutionPlan>(*p);
  if (!plan) return Handle();
  Handle result = empty_map(p->output, p->channels_last);
  const bool computed = plan->run(call.x.data(), call.weight.data(), p->has_bias ? call.bias.data() : nullptr, result.data());
  return computed ? std::move(result) : Handle();
}

void kernel(Arguments& arguments) {
  const Call call{arguments};
  const ConvolutionGeometry& g = call.geometry;
  arguments.answer([&] { return is_traced() ? Handle() : convolved(call); },
                   [&] {
                     return torch_convolution(*call.x, *call.weight, optional(call.bias), ref(g.stride), ref(g.padding), ref(g.dilation),
                                              g.transposed, ref(g.output_padding), g.groups);
                   });
}

constexpr auto declines = [](const Tensor& x, const Tensor&, const OptionalTensor&, Integers, Integers, Integers, bool transposed,
                             const auto&...) { return !is_served(Handle::borrowed(x).rank(), transposed); };

const Entry<kernel, &torch_convolution, declines> convolution{
    "convolution", "convolution",
    "(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor",
    find_torch};

}  // namespace

}  // namespace drystone::torch
