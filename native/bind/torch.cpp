#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"
#include "torch/operators.h"
#include "torch/pages.h"
#include "torch/thresholds.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_torch(nb::module_& m) {
  m.def(
      "find_libtorch", [](const std::string& path) { torch::find_libtorch(path.c_str()); }, "path"_a,
      "Looks up what registering operators needs, in the ``libtorch_cpu.so`` at ``path``. Raises RuntimeError for what is missing.");
  m.def("operator_names", &torch::operator_names);
  m.def("define_operators", &torch::define_operators, "Makes ``torch.ops.drystone.NAME`` of all operators that this torch can have.");
  m.def("replace_operator", &torch::replace, "family"_a,
        "Puts an operator, with its variants and gradient, under torch's own names, switched off, until the process ends. Returns those "
        "that this torch can't have.");
  m.def("switch_operators", &torch::switch_on, "families"_a);
  m.def("unboxed_operators", &torch::unboxed_operators, "The operators under torch's own names that C++ calls without a stack.");
  m.def("is_on", &torch::is_on, "family"_a);
  m.def("calls_served", &torch::calls_served, "The calls that drystone's kernels, not torch's, have served on this thread.");

  nb::class_<torch::ThresholdRow>(m, "Threshold")
      .def_ro("name", &torch::ThresholdRow::name)
      .def_ro("unit", &torch::ThresholdRow::unit)
      .def_ro("decides", &torch::ThresholdRow::decides,
              "``from`` or ``up to`` which size drystone serves a call of torch's; ``within`` drystone: how its kernel works.")
      .def_ro("avx2", &torch::ThresholdRow::avx2)
      .def_ro("avx512", &torch::ThresholdRow::avx512)
      .def_ro("amx", &torch::ThresholdRow::amx)
      .def_prop_ro("in_force", [](const torch::ThresholdRow& row) { return torch::threshold(row.which); });
  m.def(
      "thresholds", [] { return std::vector<torch::ThresholdRow>(std::begin(torch::threshold_rows), std::end(torch::threshold_rows)); },
      "The sizes at which torch's kernels and drystone's are as fast as each other.");
  m.def("set_threshold", &torch::set_threshold, "name"_a, "value"_a);

  nb::class_<torch::PageState>(m, "PageState")
      .def_ro("on", &torch::PageState::on)
      .def_ro("kept", &torch::PageState::kept, "Bytes that wait for use.")
      .def_ro("limit", &torch::PageState::limit)
      .def_ro("reused", &torch::PageState::reused, "Large allocations so far that were given earlier memory.")
      .def_ro("fresh", &torch::PageState::fresh, "Large allocations so far that were given new memory.");
  m.def("can_keep_pages", &torch::can_keep_pages, "Whether torch's allocator is the one that is known.");
  m.def("keep_pages", &torch::keep_pages, "limit"_a, "Large CPU tensors use memory of earlier ones again.");
  m.def("release_pages", &torch::release_pages);
  m.def("page_state", &torch::page_state);
}

}  // namespace drystone
