#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"
#include "steps/copy.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_movement(nb::module_& m) {
  m.def("copy", &make_copy, "input"_a, "output"_a, "axes"_a, "tables"_a, "value"_a = 0.0,
        "A step (input, output): output axis i reads input axis axes[i] at index tables[i][o]. axes[i] = -1 does not move in the input; "
        "an empty table is the identity; index -1 fills `value`. Any formats and strides, equal dtypes or float32 and bfloat16. "
        "Channels that pad a blocked output become zero. Raises ValueError where the arguments do not fit together.");
}

}  // namespace drystone
