#include "torch/convolution_call.h"

#include <algorithm>

#include "kernels/table.h"
#include "torch/memory_format.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

// What a stride, a dilation or a padding may be, and the work, so that no product of sizes outgrows 64 bits.
constexpr int64_t most_step = 1 << 16;
constexpr double most_work = 1e18;

}  // namespace

bool is_expanded(const Handle& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  for (size_t axis = 0; axis < sizes.size; axis++)
    if (sizes.data[axis] > 1 && strides.data[axis] < 1) return true;
  return false;
}

Handle empty_map(const Dims& sizes, bool channels_last) {
  return Handle::empty(ScalarType::f32, sizes, strides_of(sizes, channels_last ? Format::channels_last : Format::contiguous));
}

ConvolutionGeometry::ConvolutionGeometry(Arguments& arguments)
    : stride(arguments.integers()),
      padding(arguments.integers()),
      dilation(arguments.integers()),
      transposed(arguments.boolean()),
      output_padding(arguments.integers()),
      groups(arguments.integer()) {}

bool is_served(int64_t rank, bool transposed) { return rank == 5 || (transposed && (rank == 3 || rank == 4)); }

std::optional<ConvolutionProblem> problem_of(const Handle& x, const Handle& weight, const ConvolutionGeometry& geometry) {
  const int64_t rank = x.rank();
  if (!is_served(rank, geometry.transposed)) return {};
  if (geometry.groups != 1 || !kernels() || x.dtype() != ScalarType::f32 || weight.dtype() != ScalarType::f32 || weight.rank() != rank)
    return {};
  const auto least_work = static_cast<double>(threshold(Threshold::convolution_products));
  // The bound, roughly and before anything is copied: padding may add positions to those of x, hardly eight times as many.
  const int64_t in_channels = x.sizes().data[1];
  const double products = static_cast<double>(x.numel()) * weight.numel();
  if (in_channels < 1 || products / in_channels < least_work / 8) return {};
  const size_t spatial = rank - 2;
  for (const Dims* list : {&geometry.stride, &geometry.padding, &geometry.dilation, &geometry.output_padding})
    if (list->size() != spatial) return {};
  if (is_expanded(x) || is_expanded(weight)) return {};

  ConvolutionProblem p;
  p.x = dims_of(x.sizes());
  p.x_strides = dims_of(x.strides());
  p.weights = dims_of(weight.sizes());
  p.weights_strides = dims_of(weight.strides());
  // A result lies as x does, but over one axis. What lies in channels_last and not densely, or in both formats, is torch's, and so is
  // weights' being in it alone, for which torch has another rule.
  p.channels_last = spatial > 1 && !x.is_contiguous() && p.x_strides == strides_of(p.x, Format::channels_last);
  if (!p.channels_last && format_of(x.sizes(), x.strides()) == Format::channels_last) return {};
  if (!p.channels_last && !weight.is_contiguous()) return {};
  if (p.x[1] != p.weights[geometry.transposed ? 0 : 1]) return {};
  p.has_bias = false;

  p.output = {p.x[0], p.weights[geometry.transposed ? 1 : 0]};
  double work = static_cast<double>(p.x[0]) * weight.numel();
  for (size_t i = 0; i < spatial; i++) {
    const int64_t size = p.x[2 + i], stride = geometry.stride[i], padding = geometry.padding[i], more = geometry.output_padding[i];
    if (size < 1 || stride < 1 || geometry.dilation[i] < 1 || padding < 0 || more < 0 || more >= stride ||
        std::max({stride, geometry.dilation[i], padding}) > most_step)
      return {};
    const int64_t reach = geometry.dilation[i] * (p.weights[2 + i] - 1) + 1, room = size + 2 * padding - reach;
    p.output.push_back(geometry.transposed ? (size - 1) * stride + reach - 2 * padding + more : room / stride + 1);
    if (p.output.back() < 1 || (!geometry.transposed && room < 0)) return {};
    work *= static_cast<double>(geometry.transposed ? size : p.output.back());
    p.padding_r.push_back(geometry.transposed ? padding - more : padding);
  }
  const bool product = weight.numel() == p.weights[0] * p.weights[1];  // of matrices, which torch's own are as fast at
  if (work < least_work || work > most_work || product) return {};
  p.stride = geometry.stride;
  p.padding_l = geometry.padding;
  p.dilation = geometry.dilation;
  p.transposed = geometry.transposed;
  p.threads = shim().threads();
  return p;
}

}  // namespace drystone::torch
