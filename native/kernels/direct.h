// What the direct convolution in groups reads: maps of one or two spatial axes, packed weights, and a plan of the work.
#pragma once

#include <cstddef>

#include "kernels/spatial.h"

namespace drystone {

// Strides in elements; `vector` is that from one vector of channels to the next.
struct DirectMap {
  int64_t image, vector, row, column;
};

// Vectors of channels of the output that are summed together.
constexpr int direct_vectors = 3;
constexpr int64_t direct_claims_bytes = 64;

struct DirectArgs : ConvolutionAxes {
  int64_t batch, groups;
  int64_t inputs, outputs;  // channels of a group, whole vectors of them
  DirectMap in_map, out_map;

  const float* x = nullptr;
  // [group][some vectors][row of the kernel][tap][input][vector][lane]: a group's vectors in nearly equal parts of direct_vectors at most
  const float* weights = nullptr;
  const float* unbounded = nullptr;  // behind them: not 0 if a weight is NaN or infinite
  const float* bias = nullptr;
  float* output = nullptr;
  float low, high;  // between which results are kept

  // The rows of x that `band` rows of outputs read are copied with their padding, `columns` of them.
  int64_t band, columns;
  int threads = 1;
  std::byte* scratch = nullptr;  // thread_bytes a thread, then direct_claims_bytes a thread
  int64_t thread_bytes;
};

}  // namespace drystone
