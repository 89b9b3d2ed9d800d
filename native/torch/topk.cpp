// topk: the k largest or smallest elements along an axis.
#include "steps/topk.h"

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "kernels/table.h"
#include "torch/memory_format.h"
#include "torch/operators.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

// Values and indices.
using Pair = std::tuple<Tensor, Tensor>;
Pair (*torch_topk)(const Tensor& self, int64_t k, int64_t dim, bool largest, bool sorted);

bool find_torch() { return find(torch_topk, "_ZN2at3cpu4topkERKNS_6TensorEllbb"); }

// Nothing where torch's kernel serves better, or is to say what is wrong. Results: values, indices.
Results<2> largest_of(const Handle& input, int64_t k, int64_t dim, bool largest, bool sorted) {
  const auto shape = input.sizes(), strides = input.strides();
  const auto rank = static_cast<int64_t>(shape.size);
  if (!kernels() || dim < -rank || dim >= rank) return {};
  if (dim < 0) dim += rank;
  if (shape.data[dim] < threshold(Threshold::topk_count) || k < 1 || input.numel() == 0) return {};
  const auto dtype = dtype_of(input.dtype());
  if (!dtype || dtype == DType::boolean) return {};  // torch refuses bools

  std::vector<int64_t> sizes = dims_of(shape);
  sizes[dim] = k;
  const std::vector<int64_t> result_strides = strides_of(sizes, Format::contiguous);
  const auto args = topk_args({*dtype, {shape.data, shape.size}, {strides.data, strides.size}, result_strides, dim, k, largest, sorted},
                              shim().threads());
  if (!args) return {};
  Handle values = Handle::empty(input.dtype(), sizes, result_strides), indices = Handle::empty(ScalarType::s64, sizes, result_strides);
  alignas(64) char nearby[1 << 15];
  Handle far;
  const int64_t scratch_bytes = args->threads * args->scratch_bytes;
  if (scratch_bytes > static_cast<int64_t>(sizeof nearby)) far = Handle::empty(ScalarType::u8, {scratch_bytes});
  run_topk(*args, input.data(), values.data(), indices.data(), far ? far.data() : nearby);
  return results(values, indices);
}

void kernel(Arguments& arguments) {
  const Handle self = arguments.tensor();
  const int64_t k = arguments.integer(), dim = arguments.integer();
  const bool largest = arguments.boolean(), sorted = arguments.boolean();
  arguments.answer([&] { return largest_of(self, k, dim, largest, sorted); }, [&] { return torch_topk(*self, k, dim, largest, sorted); });
}

const Entry<kernel, &torch_topk> topk{
    "topk", "topk", "(Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True) -> (Tensor values, Tensor indices)",
    find_torch};

}  // namespace

}  // namespace drystone::torch
