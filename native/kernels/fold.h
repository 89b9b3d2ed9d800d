// Arguments of the kernel for running sums, products and extremes, extremes and their places, and reductions of integers and bools.
#pragma once

#include "core/dtype.h"

namespace drystone {

enum class FoldKind : uint8_t { cumsum, cumprod, cummax, cummin, sum, any, all, amax, amin, argmax, argmin };

// The first ones give a result for each element of the input.
inline bool is_running(FoldKind kind) { return kind <= FoldKind::cummin; }
inline bool has_places(FoldKind kind) { return kind == FoldKind::cummax || kind == FoldKind::cummin; }

// Dense memory: input (outer, count, inner), output the same where it is running, else (outer, inner).
struct FoldArgs {
  FoldKind kind;
  DType dtype;  // floats or integers
  const void* input;
  void* output;     // int64 for argmax and argmin, else the input's dtype
  int64_t* places;  // of cummax and cummin; null else
  int64_t outer, count, inner;
  int threads;
};

}  // namespace drystone
