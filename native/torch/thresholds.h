// The sizes at which torch's kernels and drystone's are as fast as each other: measured, one figure a class of CPU.
#pragma once

#include <cstdint>
#include <string>

namespace drystone::torch {

enum class Threshold {
  // Below them, or beyond the one that says so, torch serves a call.
  activation_elements,
  batch_norm_elements,
  batch_norm_pixels,
  cat_bytes,
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
  softmax_columns,
  topk_count,
  // From them on a kernel works in another way.
  activation_shared_elements,
  shared_bytes,
  streamed_bytes,
  count
};

struct ThresholdRow {
  Threshold which;
  const char *name, *unit;
  const char* decides;  // "from" or "up to" which size drystone serves a call, or "within" drystone alone
  int64_t avx2, avx512, amx;
};

// `drystone thresholds` measures them. AVX-512's and AVX2's are Zen 4's, with torch capped alike; AMX's are Zen 5's, as nobody has
// measured others.
inline constexpr ThresholdRow threshold_rows[] = {
    {Threshold::activation_elements, "activation_elements", "elements", "from", 1, 1, 1},
    {Threshold::batch_norm_elements, "batch_norm_elements", "elements", "from", 512, 512, 4096},
    {Threshold::batch_norm_pixels, "batch_norm_pixels", "pixels of an image", "from", 4, 4, 16},
    {Threshold::cat_bytes, "cat_bytes", "bytes of the result", "from", 1 << 18, 1 << 18, 1 << 18},
    // Each tensor whose rows don't lie together costs a loop nest of its own.
    {Threshold::cat_strided_tensors, "cat_strided_tensors", "tensors", "up to", 64, 64, 64},
    {Threshold::clone_elements, "clone_elements", "elements", "from", 256, 256, 2048},
    {Threshold::clone_channels, "clone_channels", "channels", "from", 2, 2, 8},
    {Threshold::convolution_products, "convolution_products", "products", "from", 1 << 18, 1 << 18, 1 << 21},
    // The gradient of an image, which hardly a network asks for.
    {Threshold::convolution_gradient_channels, "convolution_gradient_channels", "channels of x", "from", 4, 1, 4},
    {Threshold::embedding_bytes, "embedding_bytes", "bytes of the result", "from", 1, 1, 1},
    {Threshold::embedding_gradient_bytes, "embedding_gradient_bytes", "bytes of both gradients", "from", 1 << 10, 1 << 10, 1 << 12},
    {Threshold::embedding_bag_bytes, "embedding_bag_bytes", "bytes of all rows", "from", 1 << 10, 1 << 10, 1 << 13},
    {Threshold::embedding_bag_gradient_bytes, "embedding_bag_gradient_bytes", "bytes of all rows", "from", 1 << 9, 1 << 9, 1 << 12},
    {Threshold::index_select_bytes, "index_select_bytes", "bytes of the result", "from", 1, 1, 1},
    {Threshold::layer_norm_elements, "layer_norm_elements", "elements", "from", 1 << 14, 1 << 14, 4096},
    {Threshold::mm_elements, "mm_elements", "elements of the matrix", "from", 1 << 14, 1 << 14, 1 << 14},
    {Threshold::mm_elements_of_one_row, "mm_elements_of_one_row", "elements of the matrix", "from", 1 << 18, 1 << 16, 1 << 17},
    {Threshold::mm_transposed_depth, "mm_transposed_depth", "elements of a sum", "from", 128, 64, 128},
    {Threshold::pool_elements, "pool_elements", "elements", "from", 256, 256, 2048},
    // Neighbours in a row of plain memory become one vector.
    {Threshold::pool_columns, "pool_columns", "windows in a row", "from", 6, 6, 6},
    {Threshold::softmax_elements, "softmax_elements", "elements", "from", 512, 512, 4096},
    // Side by side in memory, which become vectors: of fewer, torch's kernel is up to 20 times as fast.
    {Threshold::softmax_columns, "softmax_columns", "columns", "from", 16, 32, 64},
    {Threshold::topk_count, "topk_count", "elements of a row", "from", 128, 128, 32},
    // Threads pay.
    {Threshold::activation_shared_elements, "activation_shared_elements", "elements", "within", 1 << 13, 1 << 14, 1 << 15},
    {Threshold::shared_bytes, "shared_bytes", "bytes moved", "within", 1 << 16, 1 << 16, 1 << 18},
    // Non-temporal stores pay: half of what a last level cache holds.
    {Threshold::streamed_bytes, "streamed_bytes", "bytes moved", "within", 1 << 25, 1 << 25, 1 << 24},
};

// The figure in force: that of this CPU's class, unless set.
int64_t threshold(Threshold which);

// Beside any calls, of which each takes the figure before or the one after. Throws std::invalid_argument for an unknown name.
void set_threshold(const std::string& name, int64_t value);

}  // namespace drystone::torch
