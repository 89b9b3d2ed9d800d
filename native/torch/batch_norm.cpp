// batch norm in training, of contiguous float32 tensors: statistics of each channel in one pass, and with it instance norm, which torch
// calls batch norm of one image with all images' channels. torch sums a channel by one scalar after the other there. In channels_last
// and in inference its own reach the memory's rate.
#include <tuple>

#include "kernels/table.h"
#include "torch/memory_format.h"
#include "torch/norm_plan.h"
#include "torch/operators.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

using Result = std::tuple<Tensor, Tensor, Tensor>;
Result (*torch_batch_norm)(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& running_mean,
                           const OptionalTensor& running_var, bool training, double momentum, double eps);

bool find_torch() { return find(torch_batch_norm, "_ZN2at3cpu17native_batch_normERKNS_6TensorERKSt8optionalIS1_ES7_S7_S7_bdd"); }

struct Call {
  Handle x, weight, bias, running_mean, running_var;  // read in the order in which they stand here
  bool training;
  double momentum, eps;

  explicit Call(Arguments& arguments)
      : x(arguments.tensor()),
        weight(arguments.optional_tensor()),
        bias(arguments.optional_tensor()),
        running_mean(arguments.optional_tensor()),
        running_var(arguments.optional_tensor()),
        training(arguments.boolean()),
        momentum(arguments.real()),
        eps(arguments.real()) {}
};

// running = momentum * value + (1 - momentum) * running
void update(float* running, const float* values, int64_t count, double scale, double momentum) {
  if (!running) return;
  for (int64_t i = 0; i < count; i++) running[i] = static_cast<float>(momentum * scale * values[i] + (1.0 - momentum) * running[i]);
}

bool is_small(const Handle& x) { return x.numel() < threshold(Threshold::batch_norm_elements); }

// Nothing where torch's kernel serves better, or is to say what is wrong. Results: y, means, deviations.
Results<3> normalised(const Call& call) {
  const Handle& x = call.x;
  const auto sizes = x.sizes();
  const int64_t elements = x.numel();
  if (!kernels() || !call.training || is_small(x) || sizes.size < 3 || x.dtype() != ScalarType::f32 || !(call.eps > 0.0) ||
      !x.is_contiguous() || format_of(sizes, x.strides()) != Format::contiguous)
    return {};
  const int64_t batch = sizes.data[0], channels = sizes.data[1], pixels = elements / batch / channels;
  if (pixels < threshold(Threshold::batch_norm_pixels) || batch * pixels < 2 || !call.running_mean != !call.running_var) return {};
  for (const Handle* parameter : {&call.weight, &call.bias, &call.running_mean, &call.running_var})
    if (*parameter &&
        (parameter->dtype() != ScalarType::f32 || parameter->rank() != 1 || parameter->numel() != channels || !parameter->is_contiguous()))
      return {};

  const auto plan = step_of(NormProblem{{batch, channels, pixels}, static_cast<bool>(call.weight), static_cast<bool>(call.bias), call.eps});
  if (!plan) return {};
  Handle y = Handle::empty(ScalarType::f32, dims_of(sizes));
  Handle means = Handle::empty(ScalarType::f32, {channels}), deviations = Handle::empty(ScalarType::f32, {channels});
  std::vector<float> variances(channels);
  // Before anything is written: one may have no memory.
  auto* running_mean = static_cast<float*>(data_of(call.running_mean));
  auto* running_var = static_cast<float*>(data_of(call.running_var));
  plan->run({x.data(), data_of(call.weight), data_of(call.bias), y.data(), means.data(), deviations.data(), variances.data()});

  const auto count = static_cast<double>(batch * pixels);
  update(running_mean, static_cast<const float*>(means.data()), channels, 1.0, call.momentum);
  update(running_var, variances.data(), channels, count / (count - 1.0), call.momentum);
  return results(y, means, deviations);
}

void kernel(Arguments& arguments) {
  const Call call{arguments};
  arguments.answer([&] { return normalised(call); },
                   [&] {
                     return torch_batch_norm(*call.x, optional(call.weight), optional(call.bias), optional(call.running_mean),
                                             optional(call.running_var), call.training, call.momentum, call.eps);
                   });
}

constexpr auto declines = [](const Tensor& x, const auto&, const auto&, const auto&, const auto&, bool training, double, double) {
  return !training || is_small(Handle::borrowed(x));
};

const Entry<kernel, &torch_batch_norm, declines> batch_norm{
    "batch_norm", "native_batch_norm",
    "(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, "
    "float momentum, float eps) -> (Tensor, Tensor, Tensor)",
    find_torch};

}  // namespace

}  // namespace drystone::torch
