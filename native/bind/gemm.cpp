#include "steps/gemm.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bind/bind.h"

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
}

}  // namespace drystone
