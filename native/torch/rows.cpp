#include "torch/rows.h"

#include <algorithm>
#include <memory>
#include <numeric>

#include "kernels/copy.h"
#include "kernels/index.h"
#include "kernels/table.h"
#include "steps/copy.h"
#include "torch/memory_format.h"

namespace drystone::torch {

bool row_dtype(ScalarType dtype, DType* known) {
  *known = dtype_of(dtype).value_or(DType::boolean);
  return is_float(*known) || *known == DType::f16;
}

bool gather_rows(const void* tables, int64_t outer, int64_t rows, int64_t run, const Handle& indices, void* output) {
  const int64_t count = indices.numel(), bytes = outer * count * run;
  int bad_axis;
  int64_t bad_index;
  IndexArgs args{};
  args.input = tables;
  args.output = output;
  args.outer = outer;
  args.outer_stride = rows * run;
  args.run = run;
  args.axes = 1;
  args.sizes[0] = count;
  args.indexed = 1;
  const int64_t step = indices.rank() == 1 ? indices.strides().data[0] : 1;
  args.indices[0] = {indices.data(), indices.dtype() == ScalarType::s64, {step}, rows, run};
  args.stream = bytes >= threshold(Threshold::streamed_bytes);
  args.threads = threads_for_bytes(bytes);
  args.bad_axis = &bad_axis;
  args.bad_index = &bad_index;
  return kernels()->index(args);
}

void scatter_rows(ScatterArgs args) {
  const int64_t width_bytes = args.width * size_of(args.dtype);
  args.stream = args.rows * width_bytes >= threshold(Threshold::streamed_bytes);
  args.threads = threads_for_bytes((args.rows + args.count) * width_bytes);
  const std::unique_ptr<int32_t[]> scratch(new int32_t[args.rows + args.count + 2 * args.width * args.threads]);
  args.scratch = scratch.get();
  kernels()->scatter(args);
}

Handle copied(const Handle& tensor, const std::vector<int64_t>& result_strides) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  Handle result = Handle::empty(tensor.dtype(), {sizes.data, sizes.data + sizes.size}, result_strides);
  std::vector<size_t> order(sizes.size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return result_strides[a] > result_strides[b]; });
  std::vector<CopyDim> dims;
  for (const size_t axis : order) dims.push_back({sizes.data[axis], strides.data[axis], result_strides[axis], nullptr});
  const CopyBox box = make_box(std::move(dims), false);
  const DType dtype = *dtype_of(tensor.dtype());
  kernels()->copy({.input = tensor.data(),
                   .output = result.data(),
                   .from = dtype,
                   .to = dtype,
                   .boxes = &box,
                   .count = 1,
                   .threads = threads_for_bytes(size_of(dtype) * tensor.numel())});
  return result;
}

const Handle& dense(const Handle& tensor, Handle& kept) {
  if (tensor.is_contiguous()) return tensor;
  const auto sizes = tensor.sizes();
  kept = copied(tensor, strides_of({sizes.data, sizes.data + sizes.size}, Format::contiguous));
  return kept;
}

}  // namespace drystone::torch
