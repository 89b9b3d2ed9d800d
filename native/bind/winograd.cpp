#include "steps/winograd.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_winograd(nb::module_& m) {
  bind_packing(
      nb::class_<Winograd, Step>(m, "Winograd",
                                 "Convolution 3x3 with stride 1 by Winograd's F(tile x tile, 3 x 3). Slots: as Convolution's.")
          .def(
              "__init__",
              [](Winograd* self, const TensorDesc& x, const Dims& weights, bool has_bias, const TensorDesc& output, const Dims& padding_l,
                 const Dims& padding_r, int tile, const std::vector<PostOpTuple>& post_ops, const std::vector<float>& weight_scales) {
                new (self) Winograd(x, weights, has_bias, output, padding_l, padding_r, tile, post_ops_of(post_ops), weight_scales);
              },
              "x"_a, "weights"_a, "has_bias"_a, "output"_a, "padding_l"_a, "padding_r"_a, "tile"_a, "post_ops"_a,
              "weight_scales"_a = std::vector<float>()));
}

}  // namespace drystone
