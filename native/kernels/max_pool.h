// What max pooling that also tells the places of the maxima reads: dense tensors, plain or channels_last, of three spatial axes.
#pragma once

#include "core/dtype.h"

namespace drystone {

struct MaxPoolArgs {
  const void* input;
  void* output;
  int64_t* places;  // lie as the output does: (z * height + y) * width + x
  DType dtype;
  bool channels_last;
  int64_t batch, channels;
  int64_t in_size[3], out_size[3], window[3], stride[3], padding[3], dilation[3];
  int threads;
};

}  // namespace drystone
