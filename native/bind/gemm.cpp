#include "steps/gemm.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bind/bind.h"
#include "steps/implicit_gemm.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

static GemmDynamic dynamic_of(const std::optional<std::string>& by, bool symmetric, const std::pair<int, int>& codes, float eps) {
  if (by && *by != "tensor" && *by != "row") throw std::invalid_argument("x is quantised by 'tensor' or 'row', not by '" + *by + "'");
  const auto granularity = !by ? GemmDynamic::By::none : *by == "row" ? GemmDynamic::By::row : GemmDynamic::By::tensor;
  return {granularity, symmetric, codes.first, codes.second, eps};
}

void bind_gemm(nb::module_& m) {
  bind_packing(
      nb::class_<Gemm, Step>(
          m, "Gemm",
          "x (M, K) @ weights (N, K) transposed, by the own kernel. Slots: as Linear's. ``widened``: bfloat16 without VDPBF16PS, codes "
          "without VPDPBUSD. "
          "Codes: as Product's; or, ``dynamic`` by 'tensor' or 'row', x is float32 or bfloat16, quantised to ``codes`` (lowest, highest) "
          "by its own range as torch's choose_qparams does: scale = range / (highest - lowest), at least ``eps``; ``symmetric``: the "
          "largest magnitude over half of that, with zero point 0.")
          .def(
              "__init__",
              [](Gemm* self, const TensorDesc& x, int64_t columns, bool has_bias, const TensorDesc& output,
                 const std::vector<PostOpTuple>& post_ops, bool widened, const std::vector<float>& weight_scales, bool weights_fit_7_bits,
                 const std::optional<std::string>& dynamic, bool symmetric, const std::pair<int, int>& codes, float eps) {
                new (self) Gemm(x, columns, has_bias, output, post_ops_of(post_ops), widened, {weight_scales, weights_fit_7_bits},
                                dynamic_of(dynamic, symmetric, codes, eps));
              },
              "x"_a, "n"_a, "has_bias"_a, "output"_a, "post_ops"_a, "widened"_a = false, "weight_scales"_a = std::vector<float>(),
              "weights_fit_7_bits"_a = false, "dynamic"_a = nb::none(), "symmetric"_a = false, "codes"_a = std::pair(0, 255),
              "eps"_a = 1.1920929e-7f));
  bind_packing(
      nb::class_<ImplicitGemm, Step>(
          m, "ImplicitGemm",
          "A convolution of codes in channels_last by the packed GEMM, of one group over one or two axes. Slots: "
          "as Convolution's. ``widened``: as Gemm's.")
          .def(
              "__init__",
              [](ImplicitGemm* self, const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride,
                 const Dims& padding_l, const Dims& padding_r, const Dims& dilation, const std::vector<PostOpTuple>& post_ops,
                 const std::vector<float>& weight_scales, bool weights_fit_7_bits, bool widened) {
                new (self) ImplicitGemm(x, weights, has_bias, output, stride, padding_l, padding_r, dilation, post_ops_of(post_ops),
                                        {weight_scales, weights_fit_7_bits}, widened);
              },
              "x"_a, "weights"_a, "has_bias"_a, "output"_a, "stride"_a, "padding_l"_a, "padding_r"_a, "dilation"_a, "post_ops"_a,
              "weight_scales"_a, "weights_fit_7_bits"_a = false, "widened"_a = false));
}

}  // namespace drystone
