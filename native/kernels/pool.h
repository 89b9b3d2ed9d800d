// What the pooling kernel reads: up to three spatial axes; missing ones in front have size 1.
#pragma once

#include "core/quantisation.h"
#include "kernels/spatial.h"

namespace drystone {

struct PoolWindow {
  int64_t start, stop, step;  // input positions
};

struct PoolArgs : SpatialArgs {
  bool max;
  Affine in_affine = {}, out_affine = {};  // of codes
  int64_t in_stride[3] = {}, out_stride[3] = {}, out_size[3] = {};

  const PoolWindow* windows[3] = {};  // one an output index
  const int64_t* divisors[3] = {};    // one an output index; null for max
  int64_t divisor_override;           // in their place if > 0

  // Plain: output columns [interior_begin, interior_end) have windows of one count and one step, interior_stride apart.
  int64_t interior_begin = 0, interior_end = 0, interior_stride = 1;

  // Of the maxima, with which their places are told: (z * height + y) * width + x in the input, as the output lies. Null without.
  int64_t* places = nullptr;
  int64_t in_size[3] = {};
  // Plain, with places: output column i reads column_taps inputs from first_column + i * column_stride on, column_step apart, those
  // outside of the row left out.
  int64_t first_column = 0, column_stride = 1, column_taps = 1, column_step = 1;
};

}  // namespace drystone
