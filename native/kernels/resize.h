// What the resize kernels read: up to three spatial axes (missing ones in front have size 1).
#pragma once

#include "kernels/spatial.h"

namespace drystone {

// out = (1 - weight) * in[low] + weight * in[high], one entry an output index.
struct ResizeAxis {
  const int32_t *low, *high;
  const float* weight;
  int64_t in_stride, out_stride, out_size;
};

struct ResizeArgs : SpatialArgs {
  int spatial;  // axes in use, the last ones
  ResizeAxis axes[3] = {};
};

// Output o is the sum of weight[t * out_size + o] * in[index[t * out_size + o]] over the taps t; an index of -1 ends them. The first
// and the last of its indices are low[o] and high[o], which never fall from one output to the next.
struct ResampleAxis {
  const int32_t *index, *low, *high;
  const float* weight;
  int64_t taps, in_stride, out_stride, out_size;
};

struct ResampleArgs : SpatialArgs {
  ResampleAxis rows = {}, columns = {};
};

}  // namespace drystone
