// softmax along any axis, and layer norm of contiguous rows.
#include <algorithm>
#include <tuple>

#include "kernels/table.h"
#include "steps/list.h"
#include "torch/norm_plan.h"
#include "torch/operators.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

Tensor (*torch_softmax)(const Tensor& x, int64_t dim, bool half_to_float);

bool find_softmax() { return find(torch_softmax, "_ZN2at3cpu8_softmaxERKNS_6TensorElb"); }

struct SoftmaxProblem {
  Dims shape;
  int64_t dim;

  auto operator<=>(const SoftmaxProblem&) const = default;

  std::shared_ptr<Step> make_step() const {
    const TensorDesc desc = TensorDesc::dense(DType::f32, drystone::Format::plain, shape);
    return make_softmax(desc, desc, dim);
  }
};

// Along another axis than the last torch goes through memory once for each column.
Handle softmaxed(const Handle& x, int64_t dim) {
  const int64_t rank = x.rank();
  if (dim < 0) dim += rank;
  const ScalarType dtype = x.dtype();
  if (!kernels() || dim < 0 || dim >= rank - 1 || rank > 5 || x.numel() < threshold(Threshold::softmax_elements) ||
      dtype != ScalarType::f32 || !x.is_contiguous())
    return Handle();
  const SoftmaxProblem problem{dims_of(x.sizes()), dim};
  int64_t columns = 1;
  for (int64_t axis = dim + 1; axis < rank; axis++) columns *= problem.shape[axis];
  if (columns < threshold(Threshold::softmax_columns)) return Handle();
  const auto plan = step_of(problem);
  if (!plan) return Handle();
  Handle y = Handle::empty(dtype, problem.shape);
  plan->run({x.data(), y.data()});
  return y;
}

void softmax_kernel(Arguments& arguments) {
  const Handle x = arguments.tensor();
  const int64_t dim = arguments.integer();
  const bool half_to_float = arguments.boolean();
  arguments.answer([&] { return half_to_float ? Handle() : softmaxed(x, dim); }, [&] { return torch_softmax(*x, dim, half_to_float); });
}

using NormResult = std::tuple<Tensor, Tensor, Tensor>;
NormResult (*torch_norm)(const Tensor& x, ArrayRef<int64_t> shape, const OptionalTensor& weight, const OptionalTensor& bias, double eps);

bool find_norm() { return find(torch_norm, "_ZN2at3cpu17native_layer_normERKNS_6TensorEN3c108ArrayRefIlEERKSt8optionalIS1_ESA_d"); }

bool is_parameter(const Handle& parameter, const std::vector<int64_t>& shape) {
  if (!parameter) return true;
  const auto sizes = parameter.sizes();
  return parameter.dtype() == ScalarType::f32 && parameter.is_contiguous() &&
         std::equal(shape.begin(), shape.end(), sizes.data, sizes.data + sizes.size);
}

bool is_small(const Handle& x) { return x.numel() < threshold(Threshold::layer_norm_elements); }

// y, means, deviations
Results<3> normalised(const Handle& x, const std::vector<int64_t>& shape, const Handle& weight, const Handle& bias, double eps) {
  const auto sizes = x.sizes();
  const int64_t elements = x.numel();
  if (!kernels() || shape.empty() || shape.size() > sizes.size || is_small(x) || x.dtype() != ScalarType::f32 || !x.is_contiguous() ||
      !std::equal(shape.begin(), shape.end(), sizes.data + sizes.size - shape.size()) || !is_parameter(weight, shape) ||
      !is_parameter(bias, shape))
    return {};
  std::vector<int64_t> outer = dims_of(sizes);
  int64_t size = 1;
  for (size_t axis = sizes.size - shape.size(); axis < sizes.size; axis++) {
    size *= outer[axis];
    outer[axis] = 1;
  }
  const int64_t rows = elements / size;
  const auto plan = step_of(NormProblem{{rows, size}, static_cast<bool>(weight), static_cast<bool>(bias), eps});
  if (!plan) return {};
  Handle y = Handle::empty(ScalarType::f32, dims_of(sizes));
  Handle means = Handle::empty(ScalarType::f32, outer), deviations = Handle::empty(ScalarType::f32, outer);
  std::vector<float> variances(rows);
  plan->run({x.data(), data_of(weight), data_of(bias), y.data(), means.data(), deviations.data(), variances.data()});
  return results(y, means, deviations);
}

void norm_kernel(Arguments& arguments) {
  const Handle x = arguments.tensor();
  const std::vector<int64_t> shape = arguments.integers();
  const Handle weight = arguments.optional_tensor(), bias = arguments.optional_tensor();
  const double eps = arguments.real();
  arguments.answer([&] { return normalised(x, shape, weight, bias, eps); },
                   [&] { return torch_norm(*x, ref(shape), optional(weight), optional(bias), eps); });
}

const Entry<softmax_kernel, &torch_softmax> softmax{"softmax", "_softmax", "(Tensor self, int dim, bool half_to_float) -> Tensor",
                                                    find_softmax};
const Entry<norm_kernel, &torch_norm, [](const Tensor& x, const auto&...) { return is_small(Handle::borrowed(x)); }> layer_norm{
    "layer_norm", "native_layer_norm",
    "(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor)", find_norm};

}  // namespace

}  // namespace drystone::torch
