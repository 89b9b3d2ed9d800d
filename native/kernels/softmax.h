// Arguments of the softmax kernel.
#pragma once

#include "kernels/walk.h"

namespace drystone {

struct SoftmaxArgs {
  const void* input;
  void* output;
  bool input_bf16, output_bf16;
  Walk kept, reduced;  // all axes but the inner one; reduced are the softmax axis's
  InnerAxis inner;
  bool inner_reduced;
  int threads;
};

}  // namespace drystone
