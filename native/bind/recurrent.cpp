#include "steps/recurrent.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"
#include "steps/recurrent_layers.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_recurrent(nb::module_& m) {
  bind_packing(nb::class_<RecurrentWeights>(m, "RecurrentWeights", "How (gates * units, k) weights are packed for a recurrent step.")
                   .def(nb::init<DType, int, int64_t, int64_t>(), "dtype"_a, "gates"_a, "units"_a, "k"_a));
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
  nb::class_<RecurrentLayers>(m, "RecurrentLayers",
                              "An LSTM, GRU or RNN on packed weights, for sequences of any length and batch. ``packed``: their addresses; "
                              "layer by layer W_ih and biases, then W_hh, inner bias and projection of each direction.")
      .def(
          "__init__",
          [](RecurrentLayers* self, const std::string& kind, DType weights, DType ends, int64_t inputs, int64_t hidden, int64_t state,
             int layers, int directions, bool has_bias, const std::vector<uintptr_t>& packed) {
            new (self) RecurrentLayers(kind, weights, ends, {inputs, hidden, state, layers, directions, has_bias}, packed);
          },
          "kind"_a, "weights"_a, "ends"_a, "inputs"_a, "hidden"_a, "state"_a, "layers"_a, "directions"_a, "has_bias"_a, "packed"_a)
      .def(
          "run",
          [](const RecurrentLayers& self, int64_t steps, int64_t batch, bool batch_first, std::vector<int64_t> batch_sizes, uintptr_t x,
             uintptr_t state, uintptr_t cell, uintptr_t output, uintptr_t final_state, uintptr_t final_cell, int threads) {
            nb::gil_scoped_release release;
            const auto at = [](uintptr_t address) { return reinterpret_cast<void*>(address); };
            self.run({steps, batch, batch_first, std::move(batch_sizes), at(x), at(state), at(cell), at(output), at(final_state),
                      at(final_cell)},
                     threads);
          },
          "steps"_a, "batch"_a, "batch_first"_a, "batch_sizes"_a, "x"_a, "state"_a, "cell"_a, "output"_a, "final_state"_a, "final_cell"_a,
          "threads"_a,
          "All on addresses, 0 for what there is not. Packed sequences have batch_sizes, and steps, batch and batch_first that go with "
          "them.")
      .def_prop_ro("implementation", &RecurrentLayers::implementation);
}

}  // namespace drystone
