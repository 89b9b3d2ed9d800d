// max_pool3d of dense float32 and bfloat16 tensors, and avg_pool3d of float32 ones, plain or in channels_last_3d. torch takes one window
// after the other in plain memory, and of averages in any; those it gives back in plain memory always, and those of bfloat16 not at all.
#include <algorithm>
#include <array>
#include <climits>
#include <optional>
#include <tuple>

#include "kernels/table.h"
#include "steps/pool.h"
#include "torch/memory_format.h"
#include "torch/operators.h"
#include "torch/plans.h"
#include "torch/rows.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

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

// A call that is served: all that its step depends on.
struct Pooling {
  bool max, channels_last, count_padding;
  DType dtype;
  Dims in, out;  // (N, C, D, H, W)
  std::array<Sliding, 3> axes;
  int64_t divisor;  // of all windows; 0: each one's own

  auto operator<=>(const Pooling&) const = default;

  TensorDesc desc(const Dims& shape) const {
    return TensorDesc::dense(dtype, channels_last ? drystone::Format::channels_last : drystone::Format::plain, shape);
  }
  std::shared_ptr<Step> make_step() const {
    return max ? make_max_pool_with_places(desc(in), desc(out), {axes.begin(), axes.end()}) : means();
  }
  std::shared_ptr<Step> means() const;
};

// One number for all axes, or three.
bool each_axis(const std::vector<int64_t>& list, std::array<Sliding, 3>& axes, int64_t Sliding::* member) {
  for (size_t i = 0; i < 3; i++) axes[i].*member = list.size() == 3 ? list[i] : list.empty() ? 0 : list[0];
  return list.size() == 1 || list.size() == 3;
}

bool is_small(const Handle& x) { return x.numel() < threshold(Threshold::pool_elements); }

// Nothing where torch's kernel serves better, or is to say what is wrong.
std::optional<Pooling> pooling_of(const Call& call, bool max) {
  const Handle& x = call.x;
  const auto sizes = x.sizes(), strides = x.strides();
  const size_t rank = sizes.size;
  const ScalarType dtype = x.dtype();
  if (!kernels() || is_small(x) || (rank != 4 && rank != 5) || (dtype != ScalarType::f32 && (!max || dtype != ScalarType::bf16))) return {};
  Pooling p{};
  p.max = max;
  p.dtype = *dtype_of(dtype);
  p.channels_last = format_of(sizes, strides) == Format::channels_last;
  if (p.channels_last ? rank == 4 || !x.is_dense() : !x.is_contiguous()) return {};
  if (!each_axis(call.window, p.axes, &Sliding::size) ||
      !each_axis(call.stride.empty() ? call.window : call.stride, p.axes, &Sliding::stride) ||
      !each_axis(call.padding, p.axes, &Sliding::padding) || !each_axis(call.dilation, p.axes, &Sliding::dilation))
    return {};
  p.in = dims_of(sizes);
  if (rank == 4) p.in.insert(p.in.begin(), 1);
  p.out = {p.in[0], p.in[1]};
  double volume = 1;
  for (size_t i = 0; i < 3; i++) {
    const auto& [window, stride, padding, dilation] = p.axes[i];
    const int64_t size = p.in[2 + i];
    if (window < 1 || stride < 1 || dilation < 1 || padding < 0 || std::max({window, stride, dilation}) > SHRT_MAX) return {};
    const int64_t reach = (window - 1) * dilation + 1, room = size + 2 * padding - reach;
    if (2 * padding > reach || room < 0 || (!max && size < window)) return {};  // a mean, torch refuses whatever the padding
    int64_t out = (room + (call.ceil_mode ? stride - 1 : 0)) / stride + 1;
    if (call.ceil_mode && (out - 1) * stride >= size + padding) out--;
    if (out > SHRT_MAX) return {};  // a plan holds each window
    p.out.push_back(out);
    volume *= static_cast<double>(size);
  }
  if ((!p.channels_last && p.out[4] < threshold(Threshold::pool_columns)) || volume > INT_MAX) return {};
  return p;
}

std::shared_ptr<Step> Pooling::means() const {
  Windows windows;
  Tables divisors(3);
  for (size_t i = 0; i < 3; i++) {
    const auto& [size, stride, padding, dilation] = axes[i];
    windows.push_back(windows_of(axes[i], in[2 + i], out[2 + i]));
    for (int64_t at = 0; at < out[2 + i]; at++) {
      const int64_t start = at * stride - padding, padded = std::min(start + size, in[2 + i] + padding) - start;
      divisors[i].push_back(count_padding ? padded : windows[i][at][1] - windows[i][at][0]);
    }
  }
  return make_pool(desc(in), desc(out), "avg", windows, divisors, divisor);
}

// Without memory for a batch where x has none, in a format.
Handle result_of(const Call& call, const Pooling& p, ScalarType dtype, Format format) {
  const Dims sizes(p.out.begin() + (call.x.rank() == 4), p.out.end());
  return Handle::empty(dtype, sizes, strides_of(sizes, format));
}

Format format_of(const Pooling& p) { return p.channels_last ? Format::channels_last : Format::contiguous; }

// Values and places, as torch has them: in the format of x.
Results<2> maxima_of(const Call& call) {
  const auto p = pooling_of(call, true);
  const auto plan = p ? step_of(*p) : nullptr;
  if (!plan) return {};
  Handle values = result_of(call, *p, call.x.dtype(), format_of(*p)), places = result_of(call, *p, ScalarType::s64, format_of(*p));
  plan->run({call.x.data(), values.data(), places.data()});
  return results(values, places);
}

void max_kernel(Arguments& arguments) {
  const Call call{arguments.tensor(),   arguments.integers(), arguments.integers(),
                  arguments.integers(), arguments.integers(), arguments.boolean()};
  arguments.answer(
      [&] { return maxima_of(call); },
      [&] { return torch_max(*call.x, ref(call.window), ref(call.stride), ref(call.padding), ref(call.dilation), call.ceil_mode); });
}

// Contiguous, as torch has it.
Handle average_of(const Call& call, bool count_padding, std::optional<int64_t> divisor) {
  auto p = pooling_of(call, false);
  if (!p || divisor.value_or(1) < 1) return Handle();
  if (p->in[1] == 1) p->channels_last = false;
  p->count_padding = count_padding;
  p->divisor = divisor.value_or(0);
  const auto plan = step_of(*p);
  if (!plan) return Handle();
  Handle result = result_of(call, *p, ScalarType::f32, format_of(*p)), plain;
  plan->run({call.x.data(), result.data()});
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

constexpr auto declines = [](const Tensor& x, const auto&...) { return is_small(Handle::borrowed(x)); };

const Entry<max_kernel, &torch_max, declines> max_pool3d{
    "max_pool3d", "max_pool3d_with_indices",
    "(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, int[3] dilation=1, "
    "bool ceil_mode=False) -> (Tensor, Tensor)",
    find_max};
const Entry<average_kernel, &torch_average, declines> avg_pool3d{
    "avg_pool3d", "avg_pool3d",
    "(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, bool ceil_mode=False, "
    "bool count_include_pad=True, int? divisor_override=None) -> Tensor",
    find_average};

}  // namespace

}  // namespace drystone::torch
