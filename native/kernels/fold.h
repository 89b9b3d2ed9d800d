// Arguments of the kernel for running sums, extremes and their places, and reductions of integers and truth values.
#pragma once

#include "core/dtype.h"

namespace drystone {

enum class FoldKind : uint8_t { cumsum, sum, any, all, amax, amin, argmax, argmin };

// Dense memory: input (outer, count, inner), output the same for cumsum, else (outer, inner).
struct FoldArgs {
  FoldKind kind;
  DType dtype;  // floats or integers
  const void* input;
  void* output;  // int64 for argmax and argmin, else the input's dtype
  int64_t outer, count, inner;
  int threads;
};

}  // namespace drystone
