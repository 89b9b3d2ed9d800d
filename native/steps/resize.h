#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/program.h"
#include "core/tensor.h"

namespace drystone {

// torch's upsample_nearest{1,2,3}d ("nearest") and upsample_linear1d, bilinear2d, trilinear3d ("linear"), float32 and bfloat16, in any
// format, the same on both sides. Slots: input, output; they must not overlap.
//
// scales[axis] is what torch multiplies output coordinates by:
//   align_corners (linear only): (in - 1) / (out - 1), or 0 where out is 1;
//   a scale factor was given (and recompute_scale_factor was not): 1 / factor, which need not be in / out as out is rounded down;
//   only the size was given: in / out.
// It is rounded to float32 here, as torch does. Input coordinates are o * scale for nearest and with align_corners, and
// max(0, (o + 0.5) * scale - 0.5) otherwise, in float32 with one rounding (torch's kernels contract it to a fused multiply-add). An axis
// that keeps its size is copied by linear, whatever its scale. Throws std::invalid_argument for what does not fit together.
std::shared_ptr<Step> make_resize(const TensorDesc& input, const TensorDesc& output, const std::string& mode, bool align_corners,
                                  const std::vector<double>& scales);

}  // namespace drystone
