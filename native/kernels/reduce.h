// Arguments of the kernel for sums and means.
#pragma once

#include "core/dtype.h"
#include "core/quantisation.h"
#include "kernels/walk.h"

namespace drystone {

struct ReduceArgs {
  const void* input;
  void* output;
  DType input_dtype, output_dtype;
  Affine input_affine = {}, output_affine = {};  // of codes
  Walk kept, reduced;                            // all axes but the inner one
  InnerAxis inner;
  bool inner_reduced;
  double scale;  // 1, or 1 / count for a mean
  // Few outputs of many elements: each is summed in `segments` parts, one after the other in memory of their own.
  int64_t segments;
  double* partials;  // [segments][outputs], where segments > 1
  int threads;
};

}  // namespace drystone
