// Arguments of the kernel that adds windows up where they lie in an image.
#pragma once

#include "core/dtype.h"

namespace drystone {

// Along one spatial axis: entry k of window l lies at l * stride + k * dilation - padding.
struct OverlapAxis {
  int64_t size, kernel, windows, stride, dilation, padding;
};

// Dense memory: input (planes, rows.kernel, columns.kernel, rows.windows, columns.windows), output (planes, rows.size, columns.size).
struct OverlapAddArgs {
  const void* input;
  void* output;
  DType dtype;
  int64_t planes;
  OverlapAxis rows, columns;
  int threads;
};

}  // namespace drystone
