// tanh, sigmoid, silu and gelu of dense tensors, float32 or bfloat16.
#include <string_view>

#include "kernels/table.h"
#include "steps/pointwise.h"
#include "torch/operators.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

// An empty handle where torch's kernel serves better.
Handle activated(const Handle& x, PointwiseKind kind) {
  const int64_t count = x.numel();
  if (!kernels() || count < threshold(Threshold::activation_elements)) return Handle();
  const auto dtype = dtype_of(x.dtype());
  if (!dtype || !is_float(*dtype) || !x.is_dense()) return Handle();
  Handle y = Handle::empty(x.dtype(), dims_of(x.sizes()), dims_of(x.strides()));
  run_instruction(kind, *dtype, count, x.data(), y.data(), count < threshold(Threshold::activation_shared_elements) ? 1 : shim().threads());
  return y;
}

using Unary = Tensor (*)(const Tensor& x);

// An operator of one tensor, and torch's own.
template <PointwiseKind kind>
struct Activation {
  static inline Unary torchs;
  static void kernel(Arguments& arguments) {
    const Handle x = arguments.tensor();
    arguments.answer([&] { return activated(x, kind); }, [&] { return torchs(*x); });
  }
  static bool find_as(const char* name) {
    torchs = reinterpret_cast<Unary>(find(name));
    return torchs != nullptr;
  }
};

using Tanh = Activation<PointwiseKind::tanh>;
using Sigmoid = Activation<PointwiseKind::sigmoid>;
using Silu = Activation<PointwiseKind::silu>;

Tensor (*torch_gelu)(const Tensor& x, std::string_view approximate);

bool find_gelu() { return find(torch_gelu, "_ZN2at3cpu4geluERKNS_6TensorESt17basic_string_viewIcSt11char_traitsIcEE"); }

void gelu_kernel(Arguments& arguments) {
  const Handle x = arguments.tensor();
  const std::string approximate = arguments.string();
  arguments.answer(
      [&] {
        if (approximate == "tanh") return activated(x, PointwiseKind::gelu_tanh);
        // torch computes the error function of bfloat16 to fewer digits, and so faster.
        return approximate == "none" && x.dtype() == ScalarType::f32 ? activated(x, PointwiseKind::gelu_erf) : Handle();
      },
      [&] { return torch_gelu(*x, approximate); });
}

const Entry<Tanh::kernel, &Tanh::torchs> tanh{"tanh", "tanh", "(Tensor self) -> Tensor",
                                              [] { return Tanh::find_as("_ZN2at3cpu4tanhERKNS_6TensorE"); }};
const Entry<Sigmoid::kernel, &Sigmoid::torchs> sigmoid{"sigmoid", "sigmoid", "(Tensor self) -> Tensor",
                                                       [] { return Sigmoid::find_as("_ZN2at3cpu7sigmoidERKNS_6TensorE"); }};
const Entry<Silu::kernel, &Silu::torchs> silu{"silu", "silu", "(Tensor self) -> Tensor",
                                              [] { return Silu::find_as("_ZN2at3cpu4siluERKNS_6TensorE"); }};
const Entry<gelu_kernel, &torch_gelu> gelu{"gelu", "gelu", "(Tensor self, *, str approximate='none') -> Tensor", find_gelu};

}  // namespace

}  // namespace drystone::torch
