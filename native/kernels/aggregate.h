// Arguments of the kernel for running sums, products and extremes, extremes and their places, and reductions of integers and bools.
#pragma once

#include "core/dtype.h"

namespace drystone {

enum class AggregateKind : uint8_t { cumsum, cumprod, logcumsumexp, cummax, cummin, sum, any, all, amax, amin, argmax, argmin };

// The first ones give a result for each element of the input.
inline bool is_running(AggregateKind kind) { return kind <= AggregateKind::cummin; }
inline bool has_places(AggregateKind kind) { return kind == AggregateKind::cummax || kind == AggregateKind::cummin; }

// Dense memory: input (outer, count, inner), output the same where it is running, else (outer, inner).
struct AggregateArgs {
  AggregateKind kind;
  DType dtype;  // floats or integers
  const void* input;
  void* output;     // int64 for argmax and argmin, else the input's dtype
  int64_t* places;  // of cummax and cummin; null else
  int64_t outer, count, inner;
  int threads;
};

}  // namespace drystone
