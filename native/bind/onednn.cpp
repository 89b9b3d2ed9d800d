#include "onednn/onednn.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_onednn(nb::module_& m) {
  start_onednn();
  // What oneDNN refuses, the planner does without: the same exception as for our own steps.
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const dnnl::error& error) {
      PyErr_SetString(PyExc_ValueError, (std::string("oneDNN: ") + error.what()).c_str());
    }
  });
  m.def("onednn_version", &onednn_version);
  m.def("post_op_limit", &post_op_limit, "kind"_a, "alpha"_a);

  nb::class_<Product, Step>(m, "Product",
                            "A convolution or a linear layer by oneDNN. x may be codes (u8, s8): with weights of s8 and ``weight_scales``, "
                            "one an output channel, "
                            "and the output codes, float32 or bfloat16.")
      .def_prop_ro("has_exact_run", &Product::has_exact_run, "Whether, run exact, its epilogue goes another way.")
      .def_prop_ro("packed_bytes", [](const Product& self) { return self.weights().bytes(); })
      .def_prop_ro("packed_key", [](const Product& self) { return self.weights().key(); });

  nb::class_<Convolution, Product>(m, "Convolution", "Slots: x, packed weights, bias where there is one, output, operands of the post-ops.")
      .def(
          "__init__",
          [](Convolution* self, const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride,
             const Dims& padding_l, const Dims& padding_r, const Dims& dilation, int64_t groups, const std::vector<PostOpTuple>& post_ops,
             bool transposed, const std::vector<float>& weight_scales, bool weights_fit_7_bits) {
            new (self) Convolution(x, weights, has_bias, output, stride, padding_l, padding_r, dilation, groups, post_ops_of(post_ops),
                                   transposed, weight_scales, weights_fit_7_bits);
          },
          "x"_a, "weights"_a, "has_bias"_a, "output"_a, "stride"_a, "padding_l"_a, "padding_r"_a, "dilation"_a, "groups"_a, "post_ops"_a,
          "transposed"_a = false, "weight_scales"_a = std::vector<float>(), "weights_fit_7_bits"_a = false)
      .def("pack", &pack<Convolution>, "dtype"_a, "source"_a, "packed"_a);

  nb::class_<Linear, Product>(m, "Linear",
                              "Slots: x (M, K), packed weights, bias where there is one, output (M, N), operands of the post-ops.")
      .def(
          "__init__",
          [](Linear* self, bool inner_product, const TensorDesc& x, int64_t columns, bool has_bias, const TensorDesc& output,
             const std::vector<PostOpTuple>& post_ops, const std::vector<float>& weight_scales, bool weights_fit_7_bits) {
            new (self) Linear(inner_product, x, columns, has_bias, output, post_ops_of(post_ops), weight_scales, weights_fit_7_bits);
          },
          "inner_product"_a, "x"_a, "n"_a, "has_bias"_a, "output"_a, "post_ops"_a, "weight_scales"_a = std::vector<float>(),
          "weights_fit_7_bits"_a = false)
      .def("pack", &pack<Linear>, "dtype"_a, "source"_a, "packed"_a);

  nb::class_<Matmul, Step>(m, "Matmul",
                           "Slots: a (..., M, K), b (..., K, N), output. Strides as they come; a batch axis of 1 is broadcast.")
      .def(nb::init<const TensorDesc&, const TensorDesc&, const TensorDesc&>(), "a"_a, "b"_a, "output"_a);

  nb::class_<Reorder, Step>(m, "Reorder").def(nb::init<const TensorDesc&, const TensorDesc&>(), "source"_a, "destination"_a);
}

}  // namespace drystone
