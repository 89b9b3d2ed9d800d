// Arguments of the kernel for rotary position embeddings.
#pragma once

#include "core/dtype.h"

namespace drystone {

constexpr int rotary_max_axes = 8;

// Operands: 0 is x, 1 the cosines, 2 the sines, 3 the output. Their last axis, of 2 * half elements, is contiguous.
struct RotaryArgs {
  const void* inputs[3];
  void* output;
  DType dtypes[4];
  int axes;  // without the last
  int64_t sizes[rotary_max_axes];
  int64_t strides[4][rotary_max_axes];  // in elements; 0 where broadcast
  int64_t half;
  int threads;
};

}  // namespace drystone
