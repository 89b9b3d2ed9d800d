// The axes that the reduction kernels step over: for each a size, and a stride for each operand.
#pragma once

#include <cstdint>

namespace drystone {

constexpr int walk_max_axes = 6;

// Operands: 0 is the input, 1 the output, 2 the weight and bias. Outermost axis first; no axes are one step.
struct Walk {
  int axes;
  int64_t sizes[walk_max_axes];
  int64_t strides[3][walk_max_axes];
};

// The axis that is contiguous in the input (or nearly).
struct InnerAxis {
  int64_t size;
  int64_t strides[3];
};

}  // namespace drystone
