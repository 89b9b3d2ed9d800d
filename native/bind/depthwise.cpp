#include "steps/depthwise.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"
#include "steps/direct.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_depthwise(nb::module_& m) {
  bind_packing(nb::class_<Depthwise, Step>(m, "Depthwise",
                                           "Convolution in groups of a channel or a few, by the own kernel. Slots: as Convolution's.")
                   .def(
                       "__init__",
                       [](Depthwise* self, const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output,
                          const Dims& stride, const Dims& padding_l, const Dims& padding_r, const Dims& dilation,
                          const std::vector<PostOpTuple>& post_ops, const std::vector<float>& weight_scales) {
                         new (self) Depthwise(x, weights, has_bias, output, stride, padding_l, padding_r, dilation, post_ops_of(post_ops),
                                              weight_scales);
                       },
                       "x"_a, "weights"_a, "has_bias"_a, "output"_a, "stride"_a, "padding_l"_a, "padding_r"_a, "dilation"_a, "post_ops"_a,
                       "weight_scales"_a = std::vector<float>()));
  bind_packing(
      nb::class_<Direct, Step>(m, "Direct",
                               "Convolution in groups of whole vectors of channels, by the own kernel: float32, one or two spatial "
                               "axes, relu or clamp after it. Slots: as Convolution's, without operands.")
          .def(
              "__init__",
              [](Direct* self, const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& stride,
                 const Dims& padding_l, const Dims& padding_r, const Dims& dilation, const std::vector<PostOpTuple>& post_ops) {
                new (self) Direct(x, weights, has_bias, output, stride, padding_l, padding_r, dilation, post_ops_of(post_ops));
              },
              "x"_a, "weights"_a, "has_bias"_a, "output"_a, "stride"_a, "padding_l"_a, "padding_r"_a, "dilation"_a, "post_ops"_a));
}

}  // namespace drystone
