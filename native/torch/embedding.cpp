// embedding: rows of a table, gathered; and its gradient.
#include "kernels/table.h"
#include "torch/operators.h"
#include "torch/rows.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

Tensor (*torch_embedding)(const Tensor& weight, const Tensor& indices, int64_t padding_idx, bool scale_grad_by_freq, bool sparse);
Tensor (*torch_backward)(const Tensor& gradient, const Tensor& indices, int64_t num_weights, int64_t padding_idx, bool scale_grad_by_freq);

bool find_torch() { return find(torch_embedding, "_ZN2at25compositeexplicitautograd9embeddingERKNS_6TensorES3_lbb"); }

bool find_torch_backward() { return find(torch_backward, "_ZN2at3cpu24embedding_dense_backwardERKNS_6TensorES3_llb"); }

// An empty handle where torch's kernel serves better, or is to say what is wrong.
Handle rows_of(const Handle& weight, const Handle& indices) {
  if (weight.rank() != 2) return Handle();
  const int64_t width = weight.sizes().data[1], run = width * size_of(weight.dtype());
  if (static_cast<double>(indices.numel()) * run < static_cast<double>(threshold(Threshold::embedding_bytes)))
    return Handle();  // of expanded indices, beyond 64 bits
  if (!kernels() || !weight.is_contiguous() || !is_index(indices.dtype()) || (indices.rank() != 1 && !indices.is_contiguous()))
    return Handle();
  const auto shape = indices.sizes();
  std::vector<int64_t> sizes(shape.data, shape.data + shape.size);
  sizes.push_back(width);
  Handle result = Handle::empty(weight.dtype(), sizes);
  return gather_rows(weight.data(), 1, weight.sizes().data[0], run, indices, result.data()) ? std::move(result) : Handle();
}

void kernel(Arguments& arguments) {
  const Handle weight = arguments.tensor(), indices = arguments.tensor();
  const int64_t padding_idx = arguments.integer();
  const bool scale_grad_by_freq = arguments.boolean(), sparse = arguments.boolean();
  arguments.answer([&] { return rows_of(weight, indices); },
                   [&] { return torch_embedding(*weight, *indices, padding_idx, scale_grad_by_freq, sparse); });
}

Handle gradient_of_rows(const Handle& given, const Handle& indices, int64_t rows, int64_t padding_idx, bool by_frequency) {
  const int64_t count = indices.numel(), elements = given.numel();
  if (given.rank() == 0 || count == 0 || elements % count || given.sizes().data[given.rank() - 1] != elements / count) return Handle();
  RowGradients gradients(given, indices, rows, elements / count, Threshold::embedding_gradient_bytes);
  if (!gradients.serves || !indices.is_contiguous()) return Handle();
  gradients.args.by_frequency = by_frequency;
  gradients.args.padding = padding_idx;
  return gradients.sum();
}

void kernel_backward(Arguments& arguments) {
  const Handle gradient = arguments.tensor(), indices = arguments.tensor();
  const int64_t rows = arguments.integer(), padding_idx = arguments.integer();
  const bool by_frequency = arguments.boolean();
  arguments.answer([&] { return gradient_of_rows(gradient, indices, rows, padding_idx, by_frequency); },
                   [&] { return torch_backward(*gradient, *indices, rows, padding_idx, by_frequency); });
}

const Entry<kernel, &torch_embedding> embedding{"embedding", "embedding",
                                                "(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, "
                                                "bool sparse=False) -> Tensor",
                                                find_torch};
const Entry<kernel_backward, &torch_backward> embedding_dense_backward{
    "embedding", "embedding_dense_backward",
    "(Tensor grad_output, Tensor indices, SymInt num_weights, SymInt padding_idx, "
    "bool scale_grad_by_freq) -> Tensor",
    find_torch_backward};

}  // namespace

}  // namespace drystone::torch
