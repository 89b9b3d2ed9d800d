// What kernels over images and volumes share: their tensors, how batch and channels lie, and what a convolution meets along each axis.
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

// Of three spatial axes; missing ones in front have size 1. padding: in front of the first column.
struct ConvolutionAxes {
  int64_t in_size[3], out_size[3], kernel[3], stride[3], dilation[3], padding[3];
};

}  // namespace drystone
