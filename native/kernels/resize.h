// What the linear resize kernel reads: up to three spatial axes (missing ones in front have size 1), and channels as in PoolArgs.
#pragma once

#include "core/dtype.h"

namespace drystone {

// out = (1 - weight) * in[low] + weight * in[high], one entry an output index.
struct ResizeAxis {
  const int32_t *low, *high;
  const float* weight;
  int64_t in_stride, out_stride, out_size;
};

struct ResizeArgs {
  const void* input = nullptr;
  void* output = nullptr;
  DType dtype;
  int spatial;  // axes in use, the last ones
  int64_t batch, in_batch_stride, out_batch_stride;
  int64_t blocks, block, in_block_stride, out_block_stride;
  ResizeAxis axes[3] = {};
  int threads = 1;
};

}  // namespace drystone
