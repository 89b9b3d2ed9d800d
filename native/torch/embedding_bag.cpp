// embedding_bag: sums, means and maxima of rows of a table; and its gradient.
#include <climits>
#include <cstring>
#include <tuple>

#include "kernels/table.h"
#include "torch/operators.h"
#include "torch/rows.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

// Result, offset2bag, bag_size, max_indices.
using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Forward = FourTensors (*)(const Tensor& weight, const Tensor& indices, const Tensor& offsets, bool scale_grad_by_freq, int64_t mode,
                                bool sparse, const OptionalTensor& per_sample_weights, bool include_last_offset, int64_t padding_idx);
Forward torch_embedding_bag, torch_forward_only;
Tensor (*torch_backward)(const Tensor& grad, const Tensor& indices, const Tensor& offset2bag, const Tensor& bag_size,
                         const Tensor& maximum_indices, int64_t num_weights, bool scale_grad_by_freq, int64_t mode,
                         const OptionalTensor& per_sample_weights, int64_t padding_idx);

bool find_torch() { return find(torch_embedding_bag, "_ZN2at3cpu14_embedding_bagERKNS_6TensorES3_S3_blbRKSt8optionalIS1_Ebl"); }

bool find_torch_forward_only() {
  return find(torch_forward_only, "_ZN2at3cpu27_embedding_bag_forward_onlyERKNS_6TensorES3_S3_blbRKSt8optionalIS1_Ebl");
}

bool find_torch_backward() {
  return find(torch_backward, "_ZN2at3cpu29_embedding_bag_dense_backwardERKNS_6TensorES3_S3_S3_S3_lblRKSt8optionalIS1_El");
}

struct Bags {
  Handle weight, indices, offsets;
  bool scale_grad_by_freq;
  int64_t mode;
  bool sparse;
  Handle per_sample_weights;
  bool include_last_offset;
  int64_t padding_idx;

  explicit Bags(Arguments& arguments)
      : weight(arguments.tensor()),
        indices(arguments.tensor()),
        offsets(arguments.tensor()),
        scale_grad_by_freq(arguments.boolean()),
        mode(arguments.integer()),
        sparse(arguments.boolean()),
        per_sample_weights(arguments.optional_tensor()),
        include_last_offset(arguments.boolean()),
        padding_idx(arguments.integer()) {}
};

template <class Index>
bool ascend(const void* offsets, int64_t count, int64_t last) {
  const auto* at = static_cast<const Index*>(offsets);
  if (at[0] != 0 || at[count - 1] > last) return false;
  for (int64_t i = 1; i < count; ++i)
    if (at[i] < at[i - 1]) return false;
  return true;
}

bool is_row(const Handle& tensor, ScalarType dtype, int64_t count) {
  return tensor.dtype() == dtype && tensor.rank() == 1 && tensor.numel() == count && tensor.is_contiguous();
}

// Nothing where torch's kernel serves better, or is to say what is wrong. `for_gradient`: sizes of bags are then always told.
Results<4> bags_of(const Bags& call, bool for_gradient) {
  BagArgs args{};
  const ScalarType index = call.indices.dtype();
  args.count = call.indices.numel();
  const int64_t offsets = call.offsets.numel();
  args.bags = offsets - call.include_last_offset;
  const auto dtype = dtype_of(call.weight.dtype());
  if (!kernels() || call.weight.rank() != 2 || !is_index(index) || args.bags < 1 || !dtype || !sums_rows_of(*dtype)) return {};
  args.dtype = *dtype;
  const auto shape = call.weight.sizes(), strides = call.weight.strides();
  const int64_t width = shape.data[1], bytes = args.count * width * size_of(args.dtype);
  if (bytes < threshold(Threshold::embedding_bag_bytes) || strides.data[1] != 1 || strides.data[0] < width || shape.data[0] > INT_MAX ||
      call.mode < 0 || call.mode > 2 || !is_row(call.indices, index, args.count) || !is_row(call.offsets, index, offsets))
    return {};
  args.mode = static_cast<BagMode>(call.mode);
  const bool sums = args.mode == BagMode::sum;
  // Sums of all rows are as fast in torch: memory has no more to give.
  if (sums && call.padding_idx < 0) return {};
  const bool weighted = static_cast<bool>(call.per_sample_weights);
  if (weighted && (call.mode != 0 || !is_row(call.per_sample_weights, call.weight.dtype(), args.count))) return {};
  args.wide = index == ScalarType::s64;
  if (!(args.wide ? ascend<int64_t> : ascend<int32_t>)(call.offsets.data(), offsets, args.count)) return {};
  if (call.include_last_offset) {
    const auto last = args.wide ? static_cast<const int64_t*>(call.offsets.data())[args.bags]
                                : static_cast<const int32_t*>(call.offsets.data())[args.bags];
    if (last != args.count) return {};
  }

  Handle output = Handle::empty(call.weight.dtype(), {args.bags, width});
  Handle offset2bag = Handle::empty(index, {args.count});
  Handle bag_size = Handle::empty(index, {sums && !for_gradient ? offsets : args.bags});
  Handle max_indices;
  if (args.mode == BagMode::max) {
    max_indices = Handle::empty(index, {args.bags, width});
    args.places = max_indices.data();
  } else {
    max_indices = Handle::empty(index, {bag_size.numel()});
  }
  args.bag_of = offset2bag.data();
  if (!sums) args.sizes = bag_size.data();

  args.table = call.weight.data();
  args.rows = shape.data[0];
  args.width = width;
  args.row_stride = strides.data[0];
  args.indices = call.indices.data();
  args.offsets = call.offsets.data();
  args.weights = data_of(call.per_sample_weights);
  args.padding = call.padding_idx;
  args.output = output.data();
  args.threads = threads_for_bytes(bytes);
  if (!kernels()->bags(args)) return {};

  const size_t sizes_bytes = bag_size.numel() * size_of(index);
  if (sums) std::memset(bag_size.data(), 0, sizes_bytes);
  if (args.mode != BagMode::max) std::memcpy(max_indices.data(), bag_size.data(), sizes_bytes);
  return results(output, offset2bag, bag_size, max_indices);
}

void run(Arguments& arguments, Forward torchs, bool for_gradient) {
  const Bags call{arguments};
  arguments.answer([&] { return bags_of(call, for_gradient); },
                   [&] {
                     return torchs(*call.weight, *call.indices, *call.offsets, call.scale_grad_by_freq, call.mode, call.sparse,
                                   optional(call.per_sample_weights), call.include_last_offset, call.padding_idx);
                   });
}

void kernel(Arguments& arguments) { run(arguments, torch_embedding_bag, true); }
void kernel_forward_only(Arguments& arguments) { run(arguments, torch_forward_only, false); }

struct Gradient {
  Handle grad, indices, offset2bag, bag_size, maximum_indices;
  int64_t num_weights;
  bool scale_grad_by_freq;
  int64_t mode;
  Handle per_sample_weights;
  int64_t padding_idx;

  explicit Gradient(Arguments& arguments)
      : grad(arguments.tensor()),
        indices(arguments.tensor()),
        offset2bag(arguments.tensor()),
        bag_size(arguments.tensor()),
        maximum_indices(arguments.tensor()),
        num_weights(arguments.integer()),
        scale_grad_by_freq(arguments.boolean()),
        mode(arguments.integer()),
        per_sample_weights(arguments.optional_tensor()),
        padding_idx(arguments.integer()) {}
};

template <class Index>
bool all_below(const void* values, int64_t count, int64_t limit) {
  const auto* at = static_cast<const Index*>(values);
  int64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= at[i] < 0 || at[i] >= limit;
  return !bad;
}

// Where torch scales by frequency, it takes that of another index than the row's: such calls stay its own.
Handle gradient_of_bags(const Gradient& call) {
  if (call.grad.rank() != 2 || call.mode < 0 || call.mode > 1 || call.scale_grad_by_freq) return Handle();
  const int64_t bags = call.grad.sizes().data[0], width = call.grad.sizes().data[1];
  RowGradients gradients(call.grad, call.indices, call.num_weights, width, Threshold::embedding_bag_gradient_bytes);
  ScatterArgs& args = gradients.args;
  const ScalarType index = call.indices.dtype();
  const bool means = call.mode == 1, weighted = static_cast<bool>(call.per_sample_weights);
  if (!gradients.serves || !is_row(call.indices, index, args.count) || !is_row(call.offset2bag, index, args.count) ||
      (means && !is_row(call.bag_size, index, bags)) ||
      (weighted && (means || !is_row(call.per_sample_weights, call.grad.dtype(), args.count))) ||
      !(args.wide ? all_below<int64_t> : all_below<int32_t>)(call.offset2bag.data(), args.count, bags))
    return Handle();
  args.sources = call.offset2bag.data();
  args.weights = data_of(call.per_sample_weights);
  args.sizes = means ? call.bag_size.data() : nullptr;
  args.padding = call.padding_idx;
  return gradients.sum();
}

void kernel_backward(Arguments& arguments) {
  const Gradient call{arguments};
  arguments.answer([&] { return gradient_of_bags(call); },
                   [&] {
                     return torch_backward(*call.grad, *call.indices, *call.offset2bag, *call.bag_size, *call.maximum_indices,
                                           call.num_weights, call.scale_grad_by_freq, call.mode, optional(call.per_sample_weights),
                                           call.padding_idx);
                   });
}

constexpr const char* forward_signature =
    "(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq=False, int mode=0, bool sparse=False, "
    "Tensor? per_sample_weights=None, bool include_last_offset=False, int padding_idx=-1) -> (Tensor, Tensor, Tensor, Tensor)";
const Entry<kernel, &torch_embedding_bag> embedding_bag{"embedding_bag", "_embedding_bag", forward_signature, find_torch};
const Entry<kernel_forward_only, &torch_forward_only> embedding_bag_forward_only{"embedding_bag", "_embedding_bag_forward_only",
                                                                                 forward_signature, find_torch_forward_only};
const Entry<kernel_backward, &torch_backward> embedding_bag_dense_backward{
    "embedding_bag", "_embedding_bag_dense_backward",
    "(Tensor grad, Tensor indices, Tensor offset2bag, Tensor bag_size, Tensor maximum_indices, SymInt num_weights, "
    "bool scale_grad_by_freq, int mode, Tensor? per_sample_weights, int padding_idx=-1) -> Tensor",
    find_torch_backward};

}  // namespace

}  // namespace drystone::torch
