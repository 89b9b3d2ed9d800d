#include "steps/attention.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>

#include "bind/bind.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_attention(nb::module_& m) {
  m.def("attention", &make_attention, "query"_a, "key"_a, "value"_a, "mask"_a.none(), "output"_a, "heads_first"_a, "scale"_a, "causal"_a,
        "nan_if_hidden"_a,
        "A step: scaled dot product attention. heads_first, of query, key, value and output: (B, H, T, D), or else (B, T, H, D). "
        "Slots: query, key, value, mask where there is one, output.");
}

}  // namespace drystone
