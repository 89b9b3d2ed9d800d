#pragma once

#include "core/dtype.h"

namespace drystone {

constexpr int guard_max_axes = 6;

struct GuardArgs {
  const void* data;
  DType dtype;  // f32 or bf16
  int axes;     // before the last, over which elements are neighbours
  int64_t sizes[guard_max_axes], strides[guard_max_axes];
  int64_t rows, columns;  // of all these axes, of the last
  float limit;
  int threads;
};

}  // namespace drystone
