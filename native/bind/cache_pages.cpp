#include "core/cache_pages.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include <optional>
#include <tuple>

#include "bind/bind.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

using PageTuple = std::tuple<DType, int64_t, int64_t, int64_t>;

void bind_cache_pages(nb::module_& m) {
  m.attr("PAGE_POSITIONS") = page_positions;
  nb::class_<PageSlab>(m, "PageSlab", "Memory of ``count`` pages of a cache, ``page_bytes`` apart from ``begin`` on.")
      .def(
          "__init__",
          [](PageSlab* self, DType dtype, int64_t heads, int64_t depth, int64_t width, int64_t count) {
            new (self) PageSlab({dtype, heads, depth, width}, count);
          },
          "dtype"_a, "heads"_a, "depth"_a, "width"_a, "count"_a)
      .def_prop_ro("begin", &PageSlab::begin)
      .def_prop_ro("bytes", &PageSlab::bytes)
      .def_prop_ro("page_bytes", [](const PageSlab& self) { return self.shape().bytes(); });
  m.def(
      "find_page",
      [](uintptr_t address) -> std::optional<PageTuple> {
        PageFinder finder;
        const PageShape* page = finder.find(address);
        if (!page) return std::nullopt;
        return PageTuple{page->dtype, page->heads, page->depth, page->width};
      },
      "address"_a, "Dtype, heads, depth of a key and width of a value of the page that begins there; None where none does.");
  m.def(
      "page_offsets",
      [](DType dtype, int64_t heads, int64_t depth, int64_t width) {
        const PageShape shape{dtype, heads, depth, width};
        return std::tuple{shape.head_bytes(), shape.values(), shape.scales()};
      },
      "dtype"_a, "heads"_a, "depth"_a, "width"_a,
      "Bytes from head to head of a page, and within a head to the values, and to the scales of int8 (keys', then values').");
}

}  // namespace drystone
