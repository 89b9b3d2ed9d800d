#include "steps/gemm.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bind/bind.h"
#include "core/groups.h"
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
  m.def(
      "group_weights",
      [](DType dtype, uintptr_t weights, int64_t n, int64_t k, int bits, int64_t group, uintptr_t codes, uintptr_t scales) {
        if ((dtype != DType::f32 && dtype != DType::bf16) || n < 0 || group < 1 || k < 1 || k % group || (bits == 4 ? k % 2 : bits != 8))
          throw std::invalid_argument("weights are float32 or bfloat16, codes have 8 or 4 bits, groups divide k");
        const nb::gil_scoped_release without_gil;
        group_weights(dtype, reinterpret_cast<const void*>(weights), n, k, bits, group, reinterpret_cast<uint8_t*>(codes),
                      reinterpret_cast<uint16_t*>(scales));
      },
      "dtype"_a, "weights"_a, "n"_a, "k"_a, "bits"_a, "group"_a, "codes"_a, "scales"_a,
      "Round weights (n, k) to codes of 4 or 8 bits, by the float16 scales of groups that err least. All are addresses.");
  nb::class_<GroupedStrips>(
      m, "GroupedStrips",
      "Weights (n, k) as codes of 4 or 8 bits, of which ``group`` neighbours along k share a scale, and a minimum if "
      "``minima``, as the GEMM reads them. ``dtype`` of these: float16 or float32. A weight is scale * code + minimum, "
      "or scale * (code - 8) and scale * (code - 128).")
      .def(
          "__init__",
          [](GroupedStrips* self, int64_t n, int64_t k, int bits, int64_t group, DType dtype, bool minima) {
            new (self) GroupedStrips(n, k, {bits, minima, dtype, group});
          },
          "n"_a, "k"_a, "bits"_a, "group"_a, "dtype"_a, "minima"_a = false)
      .def_prop_ro("packed_bytes", &GroupedStrips::packed_bytes)
      .def_prop_ro("packed_key", &GroupedStrips::packed_key)
      .def(
          "pack",
          [](const GroupedStrips& self, uintptr_t codes, uintptr_t scales, uintptr_t minima, uintptr_t packed) {
            self.pack(reinterpret_cast<const void*>(codes), reinterpret_cast<const void*>(scales), reinterpret_cast<const void*>(minima),
                      reinterpret_cast<void*>(packed));
          },
          "codes"_a, "scales"_a, "minima"_a, "packed"_a,
          "Of codes: (n, k) bytes, or (n, k / 2) with the first of two codes in the low half; scales and minima (0: none) (n, groups).");
  bind_packing(
      nb::class_<Gemm, Step>(
          m, "Gemm",
          "x (M, K) @ weights (N, K) transposed, by the own kernel. Slots: as Linear's. ``widened``: bfloat16 without VDPBF16PS, codes "
          "without VPDPBUSD. "
          "Codes: as Product's; or, ``dynamic`` by 'tensor' or 'row', x is float32 or bfloat16, quantised to ``codes`` (lowest, highest) "
          "by its own range as torch's choose_qparams does: scale = range / (highest - lowest), at least ``eps``; ``symmetric``: the "
          "largest magnitude over half of that, with zero point 0. ``rounds_x``: x is rounded to int8 in the groups of the weights.")
          .def(
              "__init__",
              [](Gemm* self, const TensorDesc& x, int64_t columns, bool has_bias, const TensorDesc& output,
                 const std::vector<PostOpTuple>& post_ops, bool widened, const std::vector<float>& weight_scales, bool weights_fit_7_bits,
                 const std::optional<std::string>& dynamic, bool symmetric, const std::pair<int, int>& codes, float eps,
                 const GroupedStrips* groups, bool rounds_x) {
                new (self) Gemm(x, columns, has_bias, output, post_ops_of(post_ops), widened, {weight_scales, weights_fit_7_bits},
                                dynamic_of(dynamic, symmetric, codes, eps), nullptr, groups, rounds_x);
              },
              "x"_a, "n"_a, "has_bias"_a, "output"_a, "post_ops"_a, "widened"_a = false, "weight_scales"_a = std::vector<float>(),
              "weights_fit_7_bits"_a = false, "dynamic"_a = nb::none(), "symmetric"_a = false, "codes"_a = std::pair(0, 255),
              "eps"_a = 1.1920929e-7f, "groups"_a.none() = nb::none(), "rounds_x"_a = false));
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
