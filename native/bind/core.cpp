#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <omp.h>

#include <stdexcept>
#include <tuple>

#include "bind/bind.h"
#include "core/errors.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/program.h"
#include "core/snapshot.h"
#include "core/tensor.h"
#include "steps/guard.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_core(nb::module_& m) {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const InputError& error) {
      PyErr_SetString(nb::module_::import_("drystone.errors").attr("InputError").ptr(), error.what());
    }
  });
  nb::enum_<DType> dtype(m, "DType");
  for (const DTypeFacts& facts : dtypes) dtype.value(facts.name, facts.dtype);
  dtype.def_prop_ro("torch_name", [](DType self) { return facts_of(self).torch_name; })
      .def_prop_ro("itemsize", &size_of)
      .def_prop_ro("is_float", &is_float, "Whether graphs compute with it in float32.")
      .def_prop_ro("is_moved", [](DType self) { return facts_of(self).numbers == Numbers::moved; }, "Whether graphs move it only.");
  nb::class_<Format> format(m, "Format", "How the axes of a tensor (N, C, spatial…) lie in memory.");
  format.def_ro("name", &Format::name)
      .def_prop_ro("is_channels_last", [](const Format& self) { return self.order == Order::channels_last; })
      .def_ro("block", &Format::block, "So many neighbouring channels lie together; 1: no blocks.")
      .def("__eq__", &Format::operator==, nb::is_operator(), nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__", [](const Format& self) { return nb::hash(nb::str(self.name)); })
      .def("__repr__", [](const Format& self) { return self.name; });
  for (const Format& named : formats) format.attr(named.name) = named;
  m.def("formats", [] { return std::vector<Format>(std::begin(formats), std::end(formats)); }, "All that there are.");
  m.def("blocked", &blocked, "The blocks that the CPU in force computes in: one fills a vector of float32.");
  nb::class_<TensorDesc>(m, "TensorDesc",
                         "Dtype, format, logical shape (N, C, spatial...), strides in elements; in blocks, strides[1] leads to the next "
                         "block. s8 and u8 stand "
                         "for (code - zero_point) * scale.")
      .def_static(
          "dense",
          [](DType dtype, Format format, Dims shape, float scale, int32_t zero_point) {
            return TensorDesc::dense(dtype, format, std::move(shape)).quantised(scale, zero_point);
          },
          "dtype"_a, "format"_a, "shape"_a, "scale"_a = 1.0f, "zero_point"_a = 0)
      .def(
          "__init__",
          [](TensorDesc* self, DType dtype, Format format, Dims shape, Dims strides, float scale, int32_t zero_point) {
            if (shape.size() != strides.size()) throw std::invalid_argument("shape and strides differ in length");
            new (self) TensorDesc(TensorDesc{dtype, format, std::move(shape), std::move(strides)}.quantised(scale, zero_point));
          },
          "dtype"_a, "format"_a, "shape"_a, "strides"_a, "scale"_a = 1.0f, "zero_point"_a = 0)
      .def_ro("dtype", &TensorDesc::dtype)
      .def_ro("format", &TensorDesc::format)
      .def_ro("shape", &TensorDesc::shape)
      .def_ro("strides", &TensorDesc::strides)
      .def_ro("scale", &TensorDesc::scale)
      .def_ro("zero_point", &TensorDesc::zero_point)
      .def_prop_ro("bytes", &TensorDesc::bytes)
      .def_prop_ro("is_dense", &TensorDesc::is_dense)
      .def_prop_ro("has_padding", &TensorDesc::has_padding)
      .def(
          "same_memory", [](const TensorDesc& a, const TensorDesc& b) { return same_memory(a, b); }, "other"_a)
      .def("__repr__", &TensorDesc::str);

  nb::class_<Step>(m, "Step", "One kernel, ready to run on the addresses in its slots.")
      .def_ro("implementation", &Step::implementation)
      .def_ro("scratchpad_bytes", &Step::scratchpad_bytes);
  nb::class_<Program>(m, "Program", "Steps in order, each with the slots that it works on.")
      .def(nb::init<>())
      .def(
          "add",
          [](Program& self, std::shared_ptr<Step> step, std::vector<uint32_t> slots, bool exact) {
            self.add(step, std::move(slots), exact);
          },
          "step"_a, "slots"_a, "exact"_a = false)
      .def("__len__", &Program::size)
      .def_prop_ro("scratchpad_bytes", &Program::scratchpad_bytes)
      .def_prop_ro("slot_count", &Program::slot_count);
  nb::class_<Frame>(m, "Frame",
                    "The memory of one call: an address for each slot; ``externals`` (slot, argument, byte offset) are bound at each call.")
      .def(
          "__init__",
          [](Frame* self, std::shared_ptr<Program> program, const std::vector<uintptr_t>& addresses,
             const std::vector<std::tuple<uint32_t, uint32_t, int64_t>>& externals, uintptr_t scratchpad, int threads) {
            std::vector<void*> pointers;
            for (uintptr_t address : addresses) pointers.push_back(reinterpret_cast<void*>(address));
            std::vector<Frame::External> bound;
            for (const auto& [slot, argument, offset] : externals) bound.push_back({slot, argument, offset});
            new (self) Frame(program, std::move(pointers), std::move(bound), reinterpret_cast<void*>(scratchpad), threads);
          },
          "program"_a, "addresses"_a, "externals"_a, "scratchpad"_a, "threads"_a)
      .def("bind", &Frame::bind, "arguments"_a)
      .def(
          "call",
          [](Frame& self, const std::vector<uintptr_t>& arguments, size_t steps) {
            nb::gil_scoped_release release;
            self.bind(arguments);
            self.run(0, steps);
          },
          "arguments"_a, "steps"_a)
      .def("run", &Frame::run, "begin"_a, "end"_a, nb::call_guard<nb::gil_scoped_release>())
      .def(
          "run_timed", [](Frame& self, size_t begin, size_t end) { return self.run_timed(begin, end); }, "begin"_a, "end"_a,
          nb::call_guard<nb::gil_scoped_release>())
      .def(
          "run_watched",
          [](Frame& self, size_t begin, size_t end) {
            std::vector<double> idle;
            auto seconds = self.run_timed(begin, end, &idle);
            return std::make_pair(std::move(seconds), std::move(idle));
          },
          "begin"_a, "end"_a, nb::call_guard<nb::gil_scoped_release>(),
          "Seconds of each step, and those that its threads waited for each other, in the mean; below 0 where they were not seen.");

  nb::class_<Snapshot>(m, "Snapshot", "The bytes at some places, each an address and a number of bytes, as they were when this was made.")
      .def(nb::init<std::vector<std::pair<uintptr_t, size_t>>>(), "places"_a)
      .def("unchanged", &Snapshot::unchanged,
           "Whether all bytes are what they were. Places after the first that is not need not be readable.")
      .def("changed", &Snapshot::changed, "The indices of the places whose bytes are others now. All of them have to be readable.");

  m.def(
      "entries_hold",
      [](nb::typed<nb::list, nb::any> dicts, nb::typed<nb::list, nb::any> keys, nb::typed<nb::list, nb::any> values) {
        for (Py_ssize_t i = 0, count = PyList_GET_SIZE(dicts.ptr()); i < count; i++) {
          PyObject* dict = PyList_GET_ITEM(dicts.ptr(), i);
          if (PyDict_GetItemWithError(dict, PyList_GET_ITEM(keys.ptr(), i)) != PyList_GET_ITEM(values.ptr(), i)) return false;
        }
        return true;
      },
      "dicts"_a, "keys"_a, "values"_a, "Whether each dict has, under its key, the very object in ``values``. Lists of equal length.");

  m.def(
      "guard", [](const TensorDesc& desc, float limit) -> std::shared_ptr<Step> { return std::make_shared<Guard>(desc, limit); }, "desc"_a,
      "limit"_a, "Has the steps after it run exact where its slot holds a NaN, an infinity or a magnitude above the limit.");

  m.def("set_threads", &omp_set_num_threads, "threads"_a,
        "Threads of steps made and run by the calling thread. oneDNN divides a primitive's work when it is made, by the maker's count.");
  m.def("advise_huge_pages", &advise_huge_pages, "address"_a, "bytes"_a);
  m.attr("VERSION") = DRYSTONE_VERSION;
  m.def(
      "isa", [] { return std::string(name_of(level())); },
      "The level of instructions in force: none, avx2, avx512 or amx, as ``DRYSTONE_MAX_ISA`` takes them.");
  m.def("features", &features, "The instructions in force, by name.");
}

}  // namespace drystone
