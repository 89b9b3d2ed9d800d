// What the operators on rows of tables share.
#pragma once

#include "kernels/bags.h"
#include "steps/index.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

inline int threads_for_bytes(int64_t bytes) { return bytes < threshold(Threshold::shared_bytes) ? 1 : shim().threads(); }

inline bool is_index(ScalarType dtype) {
  const auto known = dtype_of(dtype);
  return known && drystone::is_index(*known);
}

// `outer` tables one after the other, each of rows of `run` bytes: the rows that `indices`, of one dimension or dense, names go to
// `output`. False where an index is out of range.
bool gather_rows(const void* tables, int64_t outer, int64_t rows, int64_t run, const Handle& indices, void* output);

// The gradient of a table with `rows` rows of `width` elements, from the gradients of the rows that `indices`, dense ones, read.
class RowGradients {
 public:
  RowGradients(const Handle& gradients, const Handle& indices, int64_t rows, int64_t width, Threshold least_bytes);
  bool serves = false;
  ScatterArgs args{};  // sources, weights, sizes, by_frequency and padding are the caller's to set
  Handle sum();

 private:
  const Handle &gradients_, &indices_;
};

// A copy with these strides, which leave no holes.
Handle copied(const Handle& tensor, const std::vector<int64_t>& strides);

// The tensor itself, or a dense copy in `kept`.
const Handle& dense(const Handle& tensor, Handle& kept);

}  // namespace drystone::torch
