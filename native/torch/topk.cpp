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
  const KernelTable* table = kernels();
  const auto shape = input.sizes(), strides = input.strides();
  const auto rank = static_cast<int64_t>(shape.size);
  if (!table || dim < -rank || dim >= rank) return {};
  if (dim < 0) dim += rank;
  TopkArgs args{};
  args.count = shape.data[dim];
  if (k < 1 || k > args.count || args.count < threshold(Threshold::topk_count) || args.count > UINT32_MAX) return {};
  const auto dtype = dtype_of(input.dtype());
  if (!dtype || dtype == DType::boolean) return {};
  args.dtype = *dtype;

  std::vector<int64_t> sizes(shape.data, shape.data + rank);
  sizes[dim] = k;
  const std::vector<int64_t> steps = strides_of(sizes, Format::contiguous);
  const int64_t rows = set_rows(args, rank, shape.data, strides.data, steps.data(), dim);
  if (rows <= 0) return {};
  args.k = k;
  args.largest = largest;
  args.sorted = sorted;
  Handle values = Handle::empty(input.dtype(), sizes, steps), indices = Handle::empty(ScalarType::s64, sizes, steps);
  plan_topk(args, rows, shim().threads());  // whose products fit 64 bits, as there is memory for the results
  alignas(64) char nearby[1 << 15];
  Handle far;
  const int64_t scratch_bytes = args.threads * args.scratch_bytes;
  if (scratch_bytes > static_cast<int64_t>(sizeof nearby)) far = Handle::empty(ScalarType::u8, {scratch_bytes});
  args.input = input.data();
  args.values = values.data();
  args.indices = static_cast<int64_t*>(indices.data());
  args.scratch = far ? static_cast<char*>(far.data()) : nearby;
  table->topk(args);
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
