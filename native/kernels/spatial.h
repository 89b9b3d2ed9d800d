// What kernels over images and volumes share: their tensors, and how batch and channels lie.
#pragma once

#include "core/dtype.h"

namespace drystone {

struct SpatialArgs {
  const void* input = nullptr;
  void* output = nullptr;
  DType dtype;  // of both
  int64_t batch, in_batch_stride, out_batch_stride;
  // Channels lie in `blocks` blocks of `block` neighbours: channels_last has one, plain one channel in each.
  int64_t blocks, block, in_block_stride, out_block_stride;
  int threads = 1;
};

}  // namespace drystone
