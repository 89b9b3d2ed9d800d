#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bind/bind.h"
#include "steps/lrn.h"
#include "steps/pool.h"
#include "steps/resize.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace drystone {

void bind_windows(nb::module_& m) {
  m.def("pool", &make_pool, "input"_a, "output"_a, "kind"_a, "windows"_a, "divisors"_a = std::vector<std::vector<int64_t>>{},
        "divisor_override"_a = 0,
        "A step (input, output): max or avg pooling ('max', 'avg'). windows: for each spatial axis, for each output index, the "
        "(start, stop, step) of the input positions it reads, inside of the input. avg divides the sum by the product of "
        "divisors[axis][index], or by divisor_override if that is > 0. float32 and bfloat16, one format on both sides.");
  m.def("resize", &make_resize, "input"_a, "output"_a, "mode"_a, "align_corners"_a, "scales"_a,
        "A step (input, output): torch's upsample_nearest ('nearest') and upsample_linear1d, bilinear2d, trilinear3d ('linear'). "
        "scales[axis]: (in - 1) / (out - 1), or 0 where out is 1, with align_corners; else 1 / scale factor where one was given; else "
        "in / out. float32 and bfloat16, one format on both sides.");
  m.def("lrn", &make_lrn, "input"_a, "output"_a, "size"_a, "alpha"_a, "beta"_a, "k"_a,
        "A step (input, output): torch.nn.functional.local_response_norm. float32 and bfloat16, plain or channels_last.");
}

}  // namespace drystone
