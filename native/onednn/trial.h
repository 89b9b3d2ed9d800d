// A check of oneDNN's transposed convolutions. Those that it takes apart by strides ("brgconv_strided", 3.2) apply bias and post-ops to
// parts of their sums, and again to the next part, where the weights of a block of outputs do not fit into the second level cache.
#pragma once

#include "onednn/onednn.h"

namespace drystone {

struct DeconvolutionShape {
  TensorDesc x, output;
  Dims weights, stride, dilation, padding_l, padding_r;  // weights: (O, C, *k); no groups
};

// Whether ones convolved with ones are the number of products, with one bias. Takes about as long as running it once, for each shape the
// first time; small weights are not tried.
bool adds_bias_once(const DeconvolutionShape& shape);

}  // namespace drystone
