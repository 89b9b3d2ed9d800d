// Arguments of the kernel that gathers runs of memory by tensors of indices.
#pragma once

#include <cstdint>

namespace drystone {

constexpr int index_max_axes = 8;

// Along one indexed axis of x: entry i begins i * stride bytes further on.
struct IndexedAxis {
  const void* indices;
  bool wide;                        // int64; otherwise int32
  int64_t strides[index_max_axes];  // along the grid, in elements
  int64_t size, stride;
};

struct IndexArgs {
  const void* input;
  void* output;
  int64_t outer, outer_stride;  // repetitions over the axes before the indexed ones; bytes between two
  int64_t run;                  // bytes that lie together
  int axes;                     // of the grid of indices; at least 1
  int64_t sizes[index_max_axes];
  int64_t places[index_max_axes];  // bytes that a step along the grid moves in the input by itself
  int indexed;
  IndexedAxis indices[index_max_axes];
  bool wraps;   // negative indices count from the end
  bool stream;  // past the caches
  int threads;
  // What was found out of range, where the kernel returns false: which of the indexed axes, and the index.
  int* bad_axis;
  int64_t* bad_index;
};

}  // namespace drystone
