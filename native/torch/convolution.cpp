// convolution in float32: over three axes, and transposed over one to three. torch leaves these to an unfolding kernel, which
// multiplies image by image, or to oneDNN in plain formats, in which each call makes its primitives anew. Every other convolution
// is torch's.
#include <algorithm>
#include <memory>

#include "kernels/table.h"
#include "torch/convolution_plan.h"
#include "torch/operators.h"

namespace drystone::torch {

namespace {

using Integers = ArrayRef<int64_t>;
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

// Below so many multiplications torch's own is as fast.
constexpr int64_t least_work = 1 << 21;
// What a stride, a dilation or a padding may be, and the work, so that no product of sizes outgrows 64 bits.
constexpr int64_t most_step = 1 << 16;
constexpr double most_work = 1e18;

struct Call {
  Handle x, weight, bias;  // read in the order in which they stand here
  Dims stride, padding, dilation;
  bool transposed;
  Dims output_padding;
  int64_t groups;

  explicit Call(Arguments arguments)
      : x(arguments.tensor()),
        weight(arguments.tensor()),
        bias(arguments.optional_tensor()),
        stride(arguments.integers()),
        padding(arguments.integers()),
        dilation(arguments.integers()),
        transposed(arguments.boolean()),
        output_padding(arguments.integers()),
        groups(arguments.integer()) {}
};

Integers ref(const Dims& dims) { return {dims.data(), dims.size()}; }
bool is_channels_last(const Dims& sizes, const Dims& strides) {
  return strides == TensorDesc::dense(DType::f32, Format::channels_last, sizes).strides;
}
Dims dims_of(Integers list) { return Dims(list.data, list.data + list.size); }

// An empty handle where torch's kernel serves better, or is to say what is wrong.
Handle convolved(const Call& call) {
  const int64_t rank = call.x.rank();
  if (rank != 5 && (!call.transposed || rank < 3 || rank > 5)) return Handle();
  if (call.groups != 1 || !kernels() || call.x.dtype() != ScalarType::f32 || call.weight.dtype() != ScalarType::f32 ||
      call.weight.rank() != rank)
    return Handle();
  // The bound again, roughly and before anything is copied: padding may add positions to those of x, hardly eight times as many.
  const int64_t in_channels = call.x.sizes().data[1];
  const double products = static_cast<double>(call.x.numel()) * call.weight.numel();
  if (in_channels < 1 || products / in_channels < least_work / 8) return Handle();
  const size_t spatial = rank - 2;
  for (const Dims* list : {&call.stride, &call.padding, &call.dilation, &call.output_padding})
    if (list->size() != spatial) return Handle();

  ConvolutionProblem p;
  p.x = dims_of(call.x.sizes());
  p.x_strides = dims_of(call.x.strides());
  p.weights = dims_of(call.weight.sizes());
  p.weights_strides = dims_of(call.weight.strides());
  for (int64_t axis = 0; axis < rank; axis++)
    if ((p.x[axis] > 1 && p.x_strides[axis] < 1) || (p.weights[axis] > 1 && p.weights_strides[axis] < 1)) return Handle();  // expanded
  // A result lies as x does, but over one axis; torch has another rule for weights alone in channels_last.
  p.channels_last = spatial > 1 && !call.x.is_contiguous() && is_channels_last(p.x, p.x_strides);
  if (!p.channels_last && !call.weight.is_contiguous()) return Handle();
  const int64_t channels = p.weights[call.transposed ? 1 : 0];
  if (p.x[1] != p.weights[call.transposed ? 0 : 1]) return Handle();
  p.has_bias = static_cast<bool>(call.bias);
  if (p.has_bias && (call.bias.dtype() != ScalarType::f32 || !call.bias.is_contiguous() || dims_of(call.bias.sizes()) != Dims{channels}))
    return Handle();

  p.output = {p.x[0], channels};
  double work = static_cast<double>(p.x[0]) * call.weight.numel();
  for (size_t i = 0; i < spatial; i++) {
    const int64_t size = p.x[2 + i], stride = call.stride[i], padding = call.padding[i], more = call.output_padding[i];
    if (size < 1 || stride < 1 || call.dilation[i] < 1 || padding < 0 || more < 0 || more >= stride ||
        std::max({stride, call.dilation[i], padding}) > most_step)
      return Handle();
    const int64_t reach = call.dilation[i] * (p.weights[2 + i] - 1) + 1, room = size + 2 * padding - reach;
    p.output.push_back(call.transposed ? (size - 1) * stride + reach - 2 * padding + more : room / stride + 1);
    if (p.output.back() < 1 || (!call.transposed && room < 0)) return Handle();
    work *= static_cast<double>(call.transposed ? size : p.output.back());
    p.padding_r.push_back(call.transposed ? padding - more : padding);
  }
  const bool product = call.weight.numel() == p.weights[0] * p.weights[1];  // of matrices, which torch's own are as fast at
  if (work < least_work || work > most_work || product) return Handle();
  p.stride = call.stride;
  p.padding_l = call.padding;
  p.dilation = call.dilation;
  p.transposed = call.transposed;
  p.threads = shim().threads();

  const auto plan = plan_of(p);
  if (!plan) return Handle();
  const Format format = p.channels_last ? Format::channels_last : Format::plain;
  Handle result = Handle::empty(ScalarType::f32, p.output, TensorDesc::dense(DType::f32, format, p.output).strides);
  plan->run(call.x.data(), call.weight.data(), p.has_bias ? call.bias.data() : nullptr, result.data());
  return result;
}

void kernel(StableIValue* stack, uint64_t, uint64_t) {
  const Call call{Arguments(stack)};
  Handle result = is_traced() ? Handle() : if_memory_allows([&] { return convolved(call); });
  if (!result) {
    result = Handle::of(torch_convolution(*call.x, *call.weight, optional(call.bias), ref(call.stride), ref(call.padding),
                                          ref(call.dilation), call.transposed, ref(call.output_padding), call.groups));
  }
  give_back(stack, {&result});
}

}  // namespace

extern const Operator convolution{"convolution", "convolution",
                                  "(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
                                  "bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor",
                                  kernel, find_torch};

}  // namespace drystone::torch
