// What the resize kernels read: up to three spatial axes (missing ones in front have size 1), and channels as in PoolArgs.
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

// Output o is the sum of weight[t * out_size + o] * in[index[t * out_size + o]] over the taps t; an index of -1 ends them. The first
// and the last of its indices are low[o] and high[o], which never fall from one output to the next.
struct ResampleAxis {
  const int32_t *index, *low, *high;
  const float* weight;
  int64_t taps, in_stride, out_stride, out_size;
};

struct ResampleArgs {
  const void* input = nullptr;
  void* output = nullptr;
  DType dtype;
  int64_t batch, in_batch_stride, out_batch_stride;
  int64_t blocks, block, in_block_stride, out_block_stride;
  ResampleAxis rows = {}, columns = {};
  int threads = 1;
};

}  // namespace drystone
