// embedding: rows of a table, gathered.
#include <cstring>

#include "kernels/index.h"
#include "kernels/table.h"
#include "torch/operators.h"
#include "torch/tensor.h"

namespace drystone::torch {

namespace {

Tensor (*torch_embedding)(const Tensor& weight, const Tensor& indices, int64_t padding_idx, bool scale_grad_by_freq, bool sparse);

bool find_torch() {
  torch_embedding = reinterpret_cast<decltype(torch_embedding)>(find("_ZN2at25compositeexplicitautograd9embeddingERKNS_6TensorES3_lbb"));
  return torch_embedding != nullptr;
}

// Below this torch's own is as fast.
constexpr int64_t least_bytes = 1 << 15;

// An empty handle where torch's kernel serves better, or is to say what is wrong.
Handle rows_of(const Handle& weight, const Handle& indices) {
  const KernelTable* table = kernels();
  const ScalarType wide = indices.dtype();
  if (!table || weight.rank() != 2 || !weight.is_contiguous() || !indices.is_contiguous() ||
      (wide != ScalarType::s64 && wide != ScalarType::s32))
    return Handle();
  const auto shape = indices.sizes();
  const int64_t count = indices.numel(), width = weight.sizes().data[1], run = width * size_of(weight.dtype());
  if (count * run < least_bytes) return Handle();

  std::vector<int64_t> sizes(shape.data, shape.data + shape.size);
  sizes.push_back(width);
  Handle result = Handle::empty(weight.dtype(), sizes);
  int bad_axis;
  int64_t bad_index;
  IndexArgs args{};
  args.input = weight.data();
  args.output = result.data();
  args.outer = 1;
  args.run = run;
  args.axes = 1;
  args.sizes[0] = count;
  args.indexed = 1;
  args.indices[0] = {indices.data(), wide == ScalarType::s64, {1}, weight.sizes().data[0], run};
  args.threads = shim().threads();
  args.bad_axis = &bad_axis;
  args.bad_index = &bad_index;
  return table->index(args) ? std::move(result) : Handle();
}

void kernel(StableIValue* stack, uint64_t, uint64_t) {
  Arguments arguments(stack);
  const Handle weight = arguments.tensor(), indices = arguments.tensor();
  const int64_t padding_idx = arguments.integer();
  const bool scale_grad_by_freq = arguments.boolean(), sparse = arguments.boolean();
  Handle result = rows_of(weight, indices);
  if (!result) result = Handle::of(torch_embedding(*weight, *indices, padding_idx, scale_grad_by_freq, sparse));
  give_back(stack, {&result});
}

}  // namespace

extern const Operator embedding{"embedding",
                                "(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, "
                                "bool sparse=False) -> Tensor",
                                kernel, find_torch};

}  // namespace drystone::torch
