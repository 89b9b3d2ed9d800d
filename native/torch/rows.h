// What the operators on rows of tables share.
#pragma once

#include "kernels/bags.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

inline int threads_for_bytes(int64_t bytes) { return bytes < threshold(Threshold::shared_bytes) ? 1 : shim().threads(); }

inline bool is_index(ScalarType dtype) { return dtype == ScalarType::s64 || dtype == ScalarType::s32; }

// The dtypes that rows can be summed in; false for others.
bool row_dtype(ScalarType dtype, DType* known);

// `outer` tables one after the other, each of rows of `run` bytes: the rows that `indices`, of one dimension or dense, names go to
// `output`. False where an index is out of range.
bool gather_rows(const void* tables, int64_t outer, int64_t rows, int64_t run, const Handle& indices, void* output);

// The kernel with `output`, `rows` and all else set but for `scratch`, `stream` and `threads`.
void scatter_rows(ScatterArgs args);

// A copy with these strides, which leave no holes; of elements of two or four bytes.
Handle copied(const Handle& tensor, const std::vector<int64_t>& strides);

// The tensor itself, or a dense copy in `kept`; of elements of two or four bytes.
const Handle& dense(const Handle& tensor, Handle& kept);

}  // namespace drystone::torch
