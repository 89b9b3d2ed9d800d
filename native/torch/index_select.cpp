// index_select: entries along an axis, gathered; also into a tensor that is there.
#include <algorithm>

#include "kernels/table.h"
#include "torch/operators.h"
#include "torch/rows.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

Tensor (*torch_index_select)(const Tensor& self, int64_t dim, const Tensor& index);
Tensor& (*torch_index_select_out)(const Tensor& self, int64_t dim, const Tensor& index, Tensor& out);

bool find_torch() { return find(torch_index_select, "_ZN2at3cpu12index_selectERKNS_6TensorElS3_"); }

bool find_torch_out() { return find(torch_index_select_out, "_ZN2at3cpu17index_select_outfERKNS_6TensorElS3_RS1_"); }

// The shape of the result, and its bytes; nothing where torch's kernel serves better, or is to say what is wrong.
std::vector<int64_t> shape_of(const Handle& self, int64_t& dim, const Handle& index) {
  const auto sizes = self.sizes();
  const int64_t rank = static_cast<int64_t>(sizes.size), width = size_of(self.dtype()), count = index.numel();
  if (dim < -rank || dim >= rank || !width) return {};
  if (dim < 0) dim += rank;
  double bytes = static_cast<double>(width) * static_cast<double>(count);  // of an expanded index, beyond 64 bits
  for (int64_t axis = 0; axis < rank; ++axis)
    if (axis != dim) bytes *= static_cast<double>(sizes.data[axis]);
  if (bytes < static_cast<double>(threshold(Threshold::index_select_bytes))) return {};
  if (!kernels() || index.rank() != 1 || !is_index(index.dtype()) || !self.is_contiguous()) return {};
  std::vector<int64_t> shape(sizes.data, sizes.data + rank);
  shape[dim] = count;
  return shape;
}

bool fill(const Handle& self, int64_t dim, const Handle& index, const Handle& result) {
  const auto sizes = self.sizes();
  int64_t outer = 1, run = size_of(self.dtype());
  for (int64_t i = 0; i < dim; ++i) outer *= sizes.data[i];
  for (size_t i = dim + 1; i < sizes.size; ++i) run *= sizes.data[i];
  return gather_rows(self.data(), outer, sizes.data[dim], run, index, result.data());
}

bool overlap(const Handle& tensor, const Handle& other) {
  const auto begin = static_cast<const char*>(tensor.data()), other_begin = static_cast<const char*>(other.data());
  const auto span = [](const Handle& t) {
    return t.numel() * size_of(t.dtype()) * (t.rank() == 1 ? std::max<int64_t>(t.strides().data[0], 1) : 1);
  };
  return begin < other_begin + span(other) && other_begin < begin + span(tensor);
}

void kernel(Arguments& arguments) {
  const Handle self = arguments.tensor();
  int64_t dim = arguments.integer();
  const Handle index = arguments.tensor();
  arguments.answer(
      [&] {
        const std::vector<int64_t> shape = shape_of(self, dim, index);
        if (shape.empty()) return Handle();
        Handle made = Handle::empty(self.dtype(), shape);
        return fill(self, dim, index, made) ? std::move(made) : Handle();
      },
      [&] { return torch_index_select(*self, dim, *index); });
}

void kernel_out(Arguments& arguments) {
  const Handle self = arguments.tensor();
  int64_t dim = arguments.integer();
  const Handle index = arguments.tensor();
  Handle out = arguments.tensor();
  arguments.answer_into(
      out,
      [&] {
        const std::vector<int64_t> shape = shape_of(self, dim, index);
        const auto sizes = out.sizes();
        return !shape.empty() && out.dtype() == self.dtype() && sizes.size == shape.size() &&
               std::equal(shape.begin(), shape.end(), sizes.data) && out.is_contiguous() && !overlap(out, self) && !overlap(out, index) &&
               fill(self, dim, index, out);
      },
      [&] {
        Tensor same = *out;
        torch_index_select_out(*self, dim, *index, same);
      });
}

const Entry<kernel, &torch_index_select> index_select{"index_select", "index_select", "(Tensor self, int dim, Tensor index) -> Tensor",
                                                      find_torch};
const Entry<kernel_out, &torch_index_select_out> index_select_out{
    "index_select", "index_select.out", "(Tensor self, int dim, Tensor index, *, Tensor(a!) out) -> Tensor(a!)", find_torch_out};

}  // namespace

}  // namespace drystone::torch
