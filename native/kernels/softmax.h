// Arguments of the softmax kernel.
#pragma once

#include "core/dtype.h"
#include "kernels/walk.h"

namespace drystone {

struct SoftmaxArgs {
  const void* input;
  void* output;
  DType input_dtype, output_dtype;
  Walk kept, reduced;  // all axes but the inner one; reduced are the softmax axis's
  InnerAxis inner;
  bool inner_reduced;
  int threads;
};

}  // namespace drystone
