#include "steps/gemm.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_gemm(nb::module_& m) {
  bind_packing(nb::class_<Gemm, Step>(
                   m, "Gemm",
                   "x (M, K) @ weights (N, K) transposed, by the own kernel. Slots: as Linear's. ``widened``: bfloat16 without VDPBF16PS.")
                   .def(
                       "__init__",
                       [](Gemm* self, const TensorDesc& x, int64_t columns, bool has_bias, const TensorDesc& output,
                          const std::vector<PostOpTuple>& post_ops,
                          bool widened) { new (self) Gemm(x, columns, has_bias, output, post_ops_of(post_ops), widened); },
                       "x"_a, "n"_a, "has_bias"_a, "output"_a, "post_ops"_a, "widened"_a = false));
}

}  // namespace drystone
