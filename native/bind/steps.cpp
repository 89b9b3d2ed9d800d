// The factories of steps: those of steps/list.h, and those whose parameters Python gives in another form.
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <string>
#include <string_view>
#include <utility>

#include "bind/bind.h"
#include "steps/list.h"
#include "steps/pointwise.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

namespace {

// "const A& a, B<C, D> b" → "a", "b".
template <size_t count>
std::array<std::string, count> names_of(std::string_view parameters) {
  std::array<std::string, count> names;
  size_t index = 0;
  int depth = 0;
  for (const char c : parameters) {
    depth += (c == '<') - (c == '>');
    if (c == ',' && depth == 0)
      index++;
    else if (c == ' ' || c == '&' || c == '>')
      names[index].clear();
    else
      names[index] += c;
  }
  return names;
}

template <class... Parameters>
void bind(nb::module_& m, const char* name, std::shared_ptr<Step> (*make)(Parameters...), const char* parameters, const char* contract) {
  const auto names = names_of<sizeof...(Parameters)>(parameters);
  [&]<size_t... index>(std::index_sequence<index...>) {
    m.def(name, make, nb::arg(names[index].c_str())..., contract);
  }(std::index_sequence_for<Parameters...>());
}

using Instruction = std::tuple<std::string, std::vector<std::pair<std::string, int>>, float, float>;

}  // namespace

void bind_steps(nb::module_& m) {
#define STEP(name, contract, ...) bind(m, #name, make_##name, #__VA_ARGS__, contract);
  DRYSTONE_STEPS(STEP)
#undef STEP
  m.def(
      "pointwise",
      [](const std::vector<TensorDesc>& inputs, const TensorDesc& output, std::vector<Instruction> instructions) -> std::shared_ptr<Step> {
        std::vector<PointwiseOp> ops;
        for (auto& [kind, operands, alpha, beta] : instructions) ops.push_back({std::move(kind), std::move(operands), alpha, beta});
        return std::make_shared<PointwiseStep>(inputs, output, ops);
      },
      "inputs"_a, "output"_a, "ops"_a,
      "A chain of elementwise instructions (kind, operands, alpha, beta); operands are ('in', i) or ('reg', j). Slots: inputs, output.");
}

}  // namespace drystone
