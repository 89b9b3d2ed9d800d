// max_pool3d of dense float32 and bfloat16 tensors, and avg_pool3d of float32 ones, plain or in channels_last_3d. torch takes one window
// after the other in plain memory, and of averages in any; those it gives back in plain memory always, and those of bfloat16 not at all.
#include <algorithm>
#include <array>
#include <climits>
#include <optional>
#include <tuple>

#include "kernels/max_pool.h"
#include "steps/kernel_step.h"
#include "steps/list.h"
#include "torch/memory_format.h"
#include "torch/operators.h"
#include "torch/rows.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

using Triple = std::array<int64_t, 3>;

using Pair = std::tuple<Tensor, Tensor>;
Pair (*torch_max)(const Tensor& x, Integers window, Integers stride, Integers padding, Integers dilation, bool ceil_mode);
Tensor (*torch_average)(const Tensor& x, Integers window, Integers stride, Integers padding, bool ceil_mode, bool count_include_pad,
                        std::optional<int64_t> divisor);

bool find_max() { return find(torch_max, "_ZN2at3cpu23max_pool3d_with_indicesERKNS_6TensorEN3c108ArrayRefIlEES6_S6_S6_b"); }
bool find_average() { return find(torch_average, "_ZN2at3cpu10avg_pool3dERKNS_6TensorEN3c108ArrayRefIlEES6_S6_bbSt8optionalIlE"); }

// What both are called with, in this order.
struct Call {
  Handle x;
  std::vector<int64_t> window, stride, padding, dilation;
  bool ceil_mode;
};

// A call that is served.
struct Pooling {
  ScalarType dtype;
  Format format;
  std::vector<int64_t> sizes;  // of the result
  int64_t batch, channels;
  Triple in, out, window, stride, padding, dilation;
};

// One number for all axes, or three.
bool each_axis(const std::vector<int64_t>& list, Triple& values) {
  if (list.size() == 1) values.fill(list[0]);
  if (list.size() == 3) values = {list[0], list[1], list[2]};
  return list.size() == 1 || list.size() == 3;
}

// Nothing where torch's kernel serves better, or is to say what is wrong.
std::optional<Pooling> pooling_of(const Call& call) {
  const Handle& x = call.x;
  const auto sizes = x.sizes(), strides = x.strides();
  const size_t rank = sizes.size;
  const ScalarType dtype = x.dtype();
  if (!kernels() || x.numel() < threshold(Threshold::pool_elements) || (rank != 4 && rank != 5) ||
      (dtype != ScalarType::f32 && dtype != ScalarType::bf16))
    return {};
  Pooling p{};
  p.dtype = dtype;
  p.format = format_of(sizes, strides);
  if (p.format == Format::contiguous ? !x.is_contiguous() : rank == 4 || !x.is_dense()) return {};
  if (!each_axis(call.window, p.window) || !each_axis(call.stride.empty() ? call.window : call.stride, p.stride) ||
      !each_axis(call.padding, p.padding) || !each_axis(call.dilation, p.dilation))
    return {};
  p.batch = rank == 5 ? sizes.data[0] : 1;
  p.channels = sizes.data[rank - 4];
  p.sizes.assign(sizes.data, sizes.data + rank);
  for (int i = 0; i < 3; i++) {
    const int64_t size = p.in[i] = sizes.data[rank - 3 + i], window = p.window[i], stride = p.stride[i], padding = p.padding[i];
    if (window < 1 || stride < 1 || p.dilation[i] < 1 || padding < 0 || std::max({window, stride, p.dilation[i]}) > SHRT_MAX) return {};
    const int64_t reach = (window - 1) * p.dilation[i] + 1, room = size + 2 * padding - reach;
    if (2 * padding > reach || room < 0) return {};
    int64_t& out = p.out[i] = (room + (call.ceil_mode ? stride - 1 : 0)) / stride + 1;
    if (call.ceil_mode && (out - 1) * stride >= size + padding) out--;
    p.sizes[rank - 3 + i] = out;
  }
  if (p.format == Format::contiguous && p.out[2] < threshold(Threshold::pool_columns)) return {};
  return p;
}

// As torch has it: in the format of x.
Handle result_of(const Pooling& p, ScalarType dtype) { return Handle::empty(dtype, p.sizes, strides_of(p.sizes, p.format)); }

// Values and places.
Results<2> maxima_of(const Call& call) {
  const auto p = pooling_of(call);
  if (!p || p->in[0] * p->in[1] * p->in[2] > INT_MAX) return {};
  const bool channels_last = p->format == Format::channels_last;
  Handle values = result_of(*p, p->dtype), places = result_of(*p, ScalarType::s64);
  MaxPoolArgs args{};
  args.input = call.x.data();
  args.output = values.data();
  args.places = static_cast<int64_t*>(places.data());
  args.dtype = *dtype_of(p->dtype);
  args.channels_last = channels_last;
  args.batch = p->batch;
  args.channels = p->channels;
  args.threads = threads_for(call.x.numel(), shim().threads());
  for (int i = 0; i < 3; i++) {
    args.in_size[i] = p->in[i];
    args.out_size[i] = p->out[i];
    args.window[i] = p->window[i];
    args.stride[i] = p->stride[i];
    args.padding[i] = p->padding[i];
    args.dilation[i] = p->dilation[i];
  }
  kernels()->max_pool(args);
  return results(values, places);
}

void max_kernel(Arguments& arguments) {
  const Call call{arguments.tensor(),   arguments.integers(), arguments.integers(),
                  arguments.integers(), arguments.integers(), arguments.boolean()};
  arguments.answer(
      [&] { return maxima_of(call); },
      [&] { return torch_max(*call.x, ref(call.window), ref(call.stride), ref(call.padding), ref(call.dilation), call.ceil_mode); });
}

Handle average_of(const Call& call, bool count_padding, std::optional<int64_t> divisor) {
  auto p = pooling_of(call);
  if (!p || p->dtype != ScalarType::f32 || divisor.value_or(1) < 1) return Handle();
  for (int i = 0; i < 3; i++)
    if (p->in[i] < p->window[i]) return Handle();  // which torch refuses, whatever the padding
  if (p->channels == 1) p->format = Format::contiguous;
  Windows windows(3);
  std::vector<std::vector<int64_t>> divisors(3);
  for (int i = 0; i < 3; i++) {
    for (int64_t index = 0; index < p->out[i]; index++) {
      const int64_t start = index * p->stride[i] - p->padding[i], stop = std::min(start + p->window[i], p->in[i] + p->padding[i]);
      const int64_t first = std::max<int64_t>(start, 0), last = std::min(stop, p->in[i]);
      windows[i].push_back({first, last, 1});
      divisors[i].push_back(count_padding ? stop - start : last - first);
    }
  }
  const auto desc = [&](const Triple& spatial) {
    const auto format = p->format == Format::channels_last ? drystone::Format::channels_last : drystone::Format::plain;
    return TensorDesc::dense(DType::f32, format, {p->batch, p->channels, spatial[0], spatial[1], spatial[2]});
  };
  Handle result = result_of(*p, p->dtype), plain;
  void* const slots[] = {call.x.data(), result.data()};
  make_pool(desc(p->in), desc(p->out), "avg", windows, divisors, divisor.value_or(0))->run({slots, nullptr, shim().threads()}, nullptr);
  return &dense(result, plain) == &plain ? std::move(plain) : std::move(result);
}

void average_kernel(Arguments& arguments) {
  const Call call{arguments.tensor(), arguments.integers(), arguments.integers(), arguments.integers(), {1}, arguments.boolean()};
  const bool count_padding = arguments.boolean();
  const std::optional<int64_t> divisor = arguments.optional_integer();
  arguments.answer([&] { return average_of(call, count_padding, divisor); },
                   [&] {
                     return torch_average(*call.x, ref(call.window), ref(call.stride), ref(call.padding), call.ceil_mode, count_padding,
                                          divisor);
                   });
}

}  // namespace

extern const Operator max_pool3d{"max_pool3d", "max_pool3d_with_indices",
                                 "(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, int[3] dilation=1, "
                                 "bool ceil_mode=False) -> (Tensor, Tensor)",
                                 max_kernel, find_max};
extern const Operator avg_pool3d{"avg_pool3d", "avg_pool3d",
                                 "(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, bool ceil_mode=False, "
                                 "bool count_include_pad=True, int? divisor_override=None) -> Tensor",
                                 average_kernel, find_average};

}  // namespace drystone::torch
