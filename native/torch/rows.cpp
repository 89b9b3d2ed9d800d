#include "torch/rows.h"

#include <climits>
#include <memory>

#include "kernels/table.h"
#include "steps/copy.h"
#include "torch/memory_format.h"

namespace drystone::torch {

bool gather_rows(const void* tables, int64_t outer, int64_t rows, int64_t run, const Handle& indices, void* output) {
  const int64_t count = indices.numel(), bytes = outer * count * run;
  const int64_t stride = indices.rank() == 1 ? indices.strides().data[0] : 1;
  IndexArgs args = index_args(outer, run, {&count, 1});
  add_axis(args, *dtype_of(indices.dtype()), {&stride, 1}, rows, run);
  args.indices[0].indices = indices.data();
  args.stream = bytes >= threshold(Threshold::streamed_bytes);
  return !run_index(args, tables, output, threads_for_bytes(bytes));
}

RowGradients::RowGradients(const Handle& gradients, const Handle& indices, int64_t rows, int64_t width, Threshold least_bytes)
    : gradients_(gradients), indices_(indices) {
  const int64_t count = indices.numel();
  const auto dtype = dtype_of(gradients.dtype()), index = dtype_of(indices.dtype());
  if (!kernels() || count < 1 || count > INT_MAX || rows < 1 || rows > INT_MAX || width < 1 || !dtype || !sums_rows_of(*dtype) || !index ||
      !is_index(*index))
    return;
  const double bytes = static_cast<double>(count + rows) * width * size_of(*dtype);
  serves = bytes >= static_cast<double>(threshold(least_bytes));
  args.dtype = *dtype;
  args.wide = *index == DType::s64;
  args.count = count;
  args.rows = rows;
  args.width = width;
}

Handle RowGradients::sum() {
  Handle kept, result = Handle::empty(gradients_.dtype(), {args.rows, args.width});
  const int64_t width_bytes = args.width * size_of(args.dtype);
  args.gradient = dense(gradients_, kept).data();
  args.indices = indices_.data();
  args.output = result.data();
  args.stream = args.rows * width_bytes >= threshold(Threshold::streamed_bytes);
  args.threads = threads_for_bytes((args.rows + args.count) * width_bytes);
  const std::unique_ptr<int32_t[]> scratch(new int32_t[args.rows + args.count + 2 * args.width * args.threads]);
  args.scratch = scratch.get();
  kernels()->scatter(args);
  return result;
}

Handle copied(const Handle& tensor, const std::vector<int64_t>& result_strides) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  const DType dtype = *dtype_of(tensor.dtype());
  Handle result = Handle::empty(tensor.dtype(), dims_of(sizes), result_strides);
  std::vector<CopyDim> dims;
  for (size_t axis = 0; axis < sizes.size; ++axis) dims.push_back({sizes.data[axis], strides.data[axis], result_strides[axis], nullptr});
  copy_elements(dtype, tensor.data(), result.data(), std::move(dims), threads_for_bytes(size_of(dtype) * tensor.numel()));
  return result;
}

const Handle& dense(const Handle& tensor, Handle& kept) {
  if (tensor.is_contiguous()) return tensor;
  kept = copied(tensor, strides_of(dims_of(tensor.sizes()), Format::contiguous));
  return kept;
}

}  // namespace drystone::torch
