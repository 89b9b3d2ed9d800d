#pragma once

#include "core/dtype.h"

namespace drystone {

// x / (k + alpha / size * sum of x^2 over the channels [c - size / 2, c + (size - 1) / 2])^beta
struct LrnArgs {
  const void* input = nullptr;
  void* output = nullptr;
  DType dtype;
  int64_t batch, in_batch_stride, out_batch_stride;
  int64_t channels, in_channel_stride, out_channel_stride;
  int64_t extent[3] = {}, in_stride[3] = {}, out_stride[3] = {};  // spatial axes; those that run on are joined in the last
  int64_t size;
  float alpha, beta, k;
  int threads = 1;
};

}  // namespace drystone
