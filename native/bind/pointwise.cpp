#include "steps/pointwise.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"
#include "steps/rotary.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

using Instruction = std::tuple<std::string, std::vector<std::pair<std::string, int>>, float, float>;

void bind_pointwise(nb::module_& m) {
  m.def(
      "pointwise",
      [](const std::vector<TensorDesc>& inputs, const TensorDesc& output, std::vector<Instruction> instructions) -> std::shared_ptr<Step> {
        std::vector<PointwiseOp> ops;
        for (auto& [kind, operands, alpha, beta] : instructions) ops.push_back({std::move(kind), std::move(operands), alpha, beta});
        return std::make_shared<PointwiseStep>(inputs, output, ops);
      },
      "inputs"_a, "output"_a, "ops"_a,
      "A chain of elementwise instructions (kind, operands, alpha, beta); operands are ('in', i) or ('reg', j). Slots: inputs, output.");
  m.def("rotary", &make_rotary, "x"_a, "cosines"_a, "sines"_a, "output"_a,
        "x * cosines + (the halves of x's last axis swapped, the first then negated) * sines. Slots: x, cosines, sines, output.");
}

}  // namespace drystone
