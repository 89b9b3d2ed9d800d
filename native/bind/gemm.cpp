#include "steps/gemm.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "bind/bind.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

using PostOpTuple = std::tuple<std::string, float, float, std::optional<TensorDesc>>;

void bind_gemm(nb::module_& m) {
  nb::class_<Gemm, Step>(m, "Gemm")
      .def(
          "__init__",
          [](Gemm* self, const TensorDesc& x, int64_t columns, bool has_bias, const TensorDesc& output,
             const std::vector<PostOpTuple>& post_ops, bool widened) {
            std::vector<PostOp> list;
            for (const auto& [kind, alpha, beta, operand] : post_ops) list.push_back({kind, alpha, beta, operand});
            new (self) Gemm(x, columns, has_bias, output, list, widened);
          },
          "x"_a, "n"_a, "has_bias"_a, "output"_a, "post_ops"_a, "widened"_a = false)
      .def_prop_ro("packed_bytes", &Gemm::packed_bytes)
      .def_prop_ro("packed_key", &Gemm::packed_key)
      .def("pack", &pack<Gemm>, "dtype"_a, "source"_a, "packed"_a);
}

}  // namespace drystone
