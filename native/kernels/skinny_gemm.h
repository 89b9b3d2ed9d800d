// Arguments of the product of a few rows with a plain matrix.
#pragma once

#include <cstdint>

namespace drystone {

constexpr int64_t skinny_gemm_rows = 64;  // at most

// y = x W, all f32. Strides in elements, from row to row; within a row elements lie side by side.
struct SkinnyGemmArgs {
  const float* x;  // (rows, depth)
  const float* weights;
  bool transposed;  // the weights are (columns, depth), otherwise (depth, columns)
  float* y;         // (rows, columns), rows together
  int64_t rows, depth, columns;
  int64_t x_stride, weights_stride;
  int threads;
};

}  // namespace drystone
