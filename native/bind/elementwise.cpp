#include "steps/elementwise.h"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"
#include "steps/fold.h"
#include "steps/index.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_elementwise(nb::module_& m) {
  m.def("elementwise", &make_elementwise, "inputs"_a, "output"_a, "kind"_a,
        "One elementwise operation in the operands' own dtype. Slots: inputs, output.");
  m.def("fold", &make_fold, "input"_a, "output"_a, "kind"_a, "dims"_a,
        "cumsum, sum, any, all, amax, amin, argmax or argmin along neighbouring axes. Slots: input, output.");
  m.def("gather", &make_gather, "input"_a, "indices"_a, "output"_a, "dim"_a,
        "Entries along one axis, the other places being the entry's own. Slots: input, indices, output.");
  m.def("index", &make_index, "input"_a, "indices"_a, "output"_a, "dim"_a, "wraps"_a, "name"_a,
        "Entries by tensors of indices for the axes from dim on. An index out of range raises as the operator `name` does. "
        "Slots: input, indices, output.");
}

}  // namespace drystone
