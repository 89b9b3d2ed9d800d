#include "torch/thresholds.h"

#include <array>
#include <atomic>
#include <iterator>
#include <stdexcept>

#include "core/isa.h"

namespace drystone::torch {

namespace {

constexpr size_t count = static_cast<size_t>(Threshold::count);
constexpr const char *from = "from", *up_to = "up to", *within = "within";

struct Row {
  Threshold which;
  const char *name, *unit, *decides;
  int64_t avx2, avx512, amx;
};

// `drystone thresholds` measures them. Those of AVX2 and AMX are AVX-512's (Zen 5) as long as nobody has measured others.
constexpr Row rows[] = {
    {Threshold::activation_elements, "activation_elements", "elements", from, 1024, 1024, 1024},
    {Threshold::batch_norm_elements, "batch_norm_elements", "elements", from, 4096, 4096, 4096},
    {Threshold::batch_norm_pixels, "batch_norm_pixels", "pixels of an image", from, 16, 16, 16},
    {Threshold::cat_bytes, "cat_bytes", "bytes of the result", from, 1 << 13, 1 << 13, 1 << 13},
    // torch takes 100 ns for each tensor: of many, small ones too are ours.
    {Threshold::cat_tensors, "cat_tensors", "tensors", from, 64, 64, 64},
    // Each tensor whose rows don't lie together costs a loop nest of its own.
    {Threshold::cat_strided_tensors, "cat_strided_tensors", "tensors", up_to, 64, 64, 64},
    {Threshold::clone_elements, "clone_elements", "elements", from, 2048, 2048, 2048},
    {Threshold::clone_channels, "clone_channels", "channels", from, 8, 8, 8},
    {Threshold::convolution_products, "convolution_products", "products", from, 1 << 21, 1 << 21, 1 << 21},
    // The gradient of an image, which hardly a network asks for.
    {Threshold::convolution_gradient_channels, "convolution_gradient_channels", "channels of x", from, 4, 4, 4},
    {Threshold::embedding_bytes, "embedding_bytes", "bytes of the result", from, 1 << 15, 1 << 15, 1 << 15},
    {Threshold::embedding_gradient_bytes, "embedding_gradient_bytes", "bytes of both gradients", from, 1 << 12, 1 << 12, 1 << 12},
    {Threshold::embedding_bag_bytes, "embedding_bag_bytes", "bytes of all rows", from, 1 << 13, 1 << 13, 1 << 13},
    {Threshold::embedding_bag_gradient_bytes, "embedding_bag_gradient_bytes", "bytes of all rows", from, 1 << 12, 1 << 12, 1 << 12},
    {Threshold::index_select_bytes, "index_select_bytes", "bytes of the result", from, 1 << 15, 1 << 15, 1 << 15},
    {Threshold::layer_norm_elements, "layer_norm_elements", "elements", from, 4096, 4096, 4096},
    {Threshold::mm_elements, "mm_elements", "elements of the matrix", from, 1 << 14, 1 << 14, 1 << 14},
    {Threshold::mm_elements_of_one_row, "mm_elements_of_one_row", "elements of the matrix", from, 1 << 17, 1 << 17, 1 << 17},
    {Threshold::mm_transposed_depth, "mm_transposed_depth", "elements of a sum", from, 128, 128, 128},
    {Threshold::pool_elements, "pool_elements", "elements", from, 2048, 2048, 2048},
    // Neighbours in a row of plain memory become one vector.
    {Threshold::pool_columns, "pool_columns", "windows in a row", from, 6, 6, 6},
    {Threshold::softmax_elements, "softmax_elements", "elements", from, 4096, 4096, 4096},
    {Threshold::topk_count, "topk_count", "elements of a row", from, 32, 32, 32},
    // Threads pay.
    {Threshold::activation_shared_elements, "activation_shared_elements", "elements", within, 1 << 15, 1 << 15, 1 << 15},
    {Threshold::shared_bytes, "shared_bytes", "bytes moved", within, 1 << 18, 1 << 18, 1 << 18},
    // Non-temporal stores pay: half of what a last level cache holds.
    {Threshold::streamed_bytes, "streamed_bytes", "bytes moved", within, 1 << 24, 1 << 24, 1 << 24},
};

constexpr bool rows_are_in_order() {
  for (size_t i = 0; i < std::size(rows); i++)
    if (static_cast<size_t>(rows[i].which) != i) return false;
  return std::size(rows) == count;
}
static_assert(rows_are_in_order(), "each threshold has its row");

struct InForce {
  std::array<std::atomic<int64_t>, count> figures;

  InForce() {
    const Level cpu = level();
    for (size_t i = 0; i < count; i++) figures[i] = cpu == Level::amx ? rows[i].amx : cpu == Level::avx512 ? rows[i].avx512 : rows[i].avx2;
  }
};

std::atomic<int64_t>& in_force(size_t place) {
  static InForce chosen;
  return chosen.figures[place];
}

}  // namespace

int64_t threshold(Threshold which) { return in_force(static_cast<size_t>(which)).load(std::memory_order_relaxed); }

std::vector<ThresholdRow> thresholds() {
  std::vector<ThresholdRow> list;
  for (size_t i = 0; i < count; i++) {
    const Row& row = rows[i];
    list.push_back({row.name, row.unit, row.decides, row.avx2, row.avx512, row.amx, in_force(i)});
  }
  return list;
}

void set_threshold(const std::string& name, int64_t value) {
  for (size_t i = 0; i < count; i++) {
    if (name != rows[i].name) continue;
    in_force(i) = value;
    return;
  }
  throw std::invalid_argument("drystone has no threshold " + name);
}

}  // namespace drystone::torch
