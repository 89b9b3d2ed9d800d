#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"
#include "torch/operators.h"
#include "torch/pages.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_torch(nb::module_& m) {
  m.def("find_libtorch", [](const std::string& path) { torch::find_libtorch(path.c_str()); }, "path"_a);
  m.def("operator_names", &torch::operator_names);
  m.def("define_operators", &torch::define_operators);
  m.def("replace_operator", &torch::replace, "family"_a);
  m.def("switch_operators", &torch::switch_on, "families"_a);
  m.def("is_on", &torch::is_on, "family"_a);

  nb::class_<torch::PageState>(m, "PageState")
      .def_ro("on", &torch::PageState::on)
      .def_ro("kept", &torch::PageState::kept)
      .def_ro("limit", &torch::PageState::limit)
      .def_ro("reused", &torch::PageState::reused)
      .def_ro("fresh", &torch::PageState::fresh);
  m.def("can_keep_pages", &torch::can_keep_pages);
  m.def("keep_pages", &torch::keep_pages, "limit"_a);
  m.def("release_pages", &torch::release_pages);
  m.def("page_state", &torch::page_state);
}

}  // namespace drystone
