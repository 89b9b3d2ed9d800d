#include "steps/gemm.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"
#include "core/groups.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

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
  bind_packing(nb::class_<Gemm, Step>(
                   m, "Gemm",
                   "x (M, K) @ weights (N, K) transposed, by the own kernel. Slots: as Linear's. ``widened``: bfloat16 without VDPBF16PS.")
                   .def(
                       "__init__",
                       [](Gemm* self, const TensorDesc& x, int64_t columns, bool has_bias, const TensorDesc& output,
                          const std::vector<PostOpTuple>& post_ops, bool widened, const GroupedStrips* groups) {
                         new (self) Gemm(x, columns, has_bias, output, post_ops_of(post_ops), widened, groups);
                       },
                       "x"_a, "n"_a, "has_bias"_a, "output"_a, "post_ops"_a, "widened"_a = false, "groups"_a.none() = nb::none()));
}

}  // namespace drystone
