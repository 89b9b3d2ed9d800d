// The sizes at which torch's kernels and drystone's are as fast as each other: measured, one figure a class of CPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace drystone::torch {

enum class Threshold {
  // Below them, or beyond the one that says so, torch serves a call.
  activation_elements,
  batch_norm_elements,
  batch_norm_pixels,
  cat_bytes,
  cat_tensors,
  cat_strided_tensors,
  clone_elements,
  clone_channels,
  convolution_products,
  convolution_gradient_channels,
  embedding_bytes,
  embedding_gradient_bytes,
  embedding_bag_bytes,
  embedding_bag_gradient_bytes,
  index_select_bytes,
  layer_norm_elements,
  mm_elements,
  mm_elements_of_one_row,
  mm_transposed_depth,
  pool_elements,
  pool_columns,
  softmax_elements,
  topk_count,
  // From them on a kernel works in another way.
  activation_shared_elements,
  shared_bytes,
  streamed_bytes,
  count
};

// The figure in force: that of this CPU's class, unless set.
int64_t threshold(Threshold which);

struct ThresholdRow {
  std::string name, unit, decides;  // decides: "from" or "up to" which size drystone serves a call, or "within" drystone alone
  int64_t avx2, avx512, amx, in_force;
};
std::vector<ThresholdRow> thresholds();

// Beside any calls, of which each takes the figure before or the one after. Throws std::invalid_argument for an unknown name.
void set_threshold(const std::string& name, int64_t value);

}  // namespace drystone::torch
