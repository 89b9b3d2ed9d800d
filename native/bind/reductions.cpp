#include "steps/reductions.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_reductions(nb::module_& m) {
  m.def(
      "reduce",
      [](const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Dims& dims) -> std::shared_ptr<Step> {
        return std::make_shared<ReduceStep>(input, output, kind, dims);
      },
      "input"_a, "output"_a, "kind"_a, "dims"_a, "'mean' or 'sum' over the axes dims. Slots: input, output.");
  m.def(
      "softmax",
      [](const TensorDesc& input, const TensorDesc& output, int64_t dim) -> std::shared_ptr<Step> {
        return std::make_shared<SoftmaxStep>(input, output, dim);
      },
      "input"_a, "output"_a, "dim"_a, "Softmax along the axis dim. Slots: input, output.");
  m.def(
      "norm",
      [](const TensorDesc& input, const std::optional<TensorDesc>& weight, const std::optional<TensorDesc>& bias, const TensorDesc& output,
         const std::string& kind, const Dims& dims, int64_t groups, double eps) -> std::shared_ptr<Step> {
        return std::make_shared<NormStep>(input, weight, bias, output, NormAttributes{kind, dims, groups, eps});
      },
      "input"_a, "weight"_a.none(), "bias"_a.none(), "output"_a, "kind"_a, "dims"_a, "groups"_a, "eps"_a,
      "'layer' or 'rms' norm over the axes dims, or 'group' norm of so many groups. Slots: input, weight and bias where there, output.");
}

}  // namespace drystone
