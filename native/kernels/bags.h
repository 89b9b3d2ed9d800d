// Arguments of the kernels of embedding_bag, and of the gradient of embedding and embedding_bag.
#pragma once

#include "core/dtype.h"

namespace drystone {

constexpr bool sums_rows_of(DType dtype) { return is_float(dtype) || dtype == DType::f16; }

enum class BagMode : uint8_t { sum, mean, max };

// Bag b is of the indices from offsets[b] to offsets[b + 1], or to `count` for the last. Offsets ascend from 0 to `count` at most.
struct BagArgs {
  DType dtype;
  BagMode mode;
  const void* table;  // (rows, width); row_stride in elements
  int64_t rows, width, row_stride;
  const void *indices, *offsets;
  bool wide;  // both int64, otherwise int32; so are the three results below
  int64_t count, bags;
  const void* weights;  // null, or one an index, in the table's dtype; for sums
  int64_t padding;      // an index that counts as none; negative: none is
  void* output;         // (bags, width)
  void* bag_of;         // for each index its bag
  void* sizes;          // null, or for each bag how many indices count
  void* places;         // for maxima: (bags, width), the index of the row that each is from
  int threads;
};

// Row r of the output is the sum of the gradient's rows that come from index r, each times its weight. Indices beyond the rows are
// left out.
struct ScatterArgs {
  DType dtype;
  const void* gradient;  // (any, width), rows together
  const void* indices;
  const void* sources;  // null, or for each index its row of the gradient: otherwise row i is index i's
  bool wide;            // indices, sources, sizes: int64, otherwise int32
  int64_t count, rows, width;
  const void* weights;  // null, or one an index, in the gradient's dtype
  const void* sizes;    // null, or for each row of the gradient what it is divided by; 0 is as 1
  bool by_frequency;    // divided by how often the index occurs, too
  int64_t padding;      // an index without a gradient; negative: none
  void* output;         // (rows, width)
  int32_t* scratch;     // rows + count, and 2 * width floats a thread
  bool stream;          // past the caches
  int threads;
};

}  // namespace drystone
