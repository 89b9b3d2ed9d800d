#include "steps/recurrent.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include "bind/bind.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_recurrent(nb::module_& m) {
  nb::class_<RecurrentWeights>(m, "RecurrentWeights", "How (gates * units, k) weights are packed for a recurrent step.")
      .def(nb::init<DType, int, int64_t, int64_t>(), "dtype"_a, "gates"_a, "units"_a, "k"_a)
      .def_prop_ro("packed_bytes", &RecurrentWeights::packed_bytes)
      .def_prop_ro("packed_key", &RecurrentWeights::packed_key)
      .def("pack", &pack<RecurrentWeights>, "dtype"_a, "source"_a, "packed"_a);
  m.def(
      "recurrent",
      [](const std::string& kind, DType weights, int64_t hidden, int directions, bool batch_first, bool has_bias, bool projects,
         const TensorDesc& gates, const std::optional<TensorDesc>& state, const std::optional<TensorDesc>& cell, const TensorDesc& output,
         const TensorDesc& final_state, const std::optional<TensorDesc>& final_cell, bool widened) {
        const RecurrentOperands operands{gates, state, cell, output, final_state, final_cell};
        return make_recurrent(kind, weights, hidden, directions, batch_first, has_bias, projects, operands, widened);
      },
      "kind"_a, "weights"_a, "hidden"_a, "directions"_a, "batch_first"_a, "has_bias"_a, "projects"_a, "gates"_a, "state"_a.none(),
      "cell"_a.none(), "output"_a, "final_state"_a, "final_cell"_a.none(), "widened"_a = false,
      "A step: the hidden part of a recurrent layer, all time steps. Slots: gates; for each direction W_hh packed, the bias of a GRU's new "
      "gate if has_bias, the projection packed if projects; state and cell where there are any; output, final_state, final_cell.");
}

}  // namespace drystone
