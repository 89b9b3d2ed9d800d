#include "torch/memory_format.h"

#include <algorithm>
#include <new>
#include <numeric>

namespace drystone::torch {

Format format_of(ArrayRef<int64_t> sizes, ArrayRef<int64_t> strides) {
  if ((sizes.size != 4 && sizes.size != 5) || strides.data[1] == 0) return Format::contiguous;
  // From the innermost axis of the format outwards, no stride is less than what lies within it.
  const std::vector<int> order = order_of(sizes.size, Format::channels_last);
  int64_t least = 0;
  for (size_t i = order.size(); i-- > 0;) {
    const int axis = order[i];
    if (sizes.data[axis] == 0 || strides.data[axis] < least) return Format::contiguous;
    if (axis == 0 && least == strides.data[1]) return Format::contiguous;  // all inner axes are 1
    least = strides.data[axis] * (sizes.data[axis] > 1 ? sizes.data[axis] : 1);
  }
  return Format::channels_last;
}

std::vector<int> order_of(size_t rank, Format format) {
  std::vector<int> order(rank);
  std::iota(order.begin(), order.end(), 0);
  if (format == Format::channels_last) std::rotate(order.begin() + 1, order.begin() + 2, order.end());
  return order;
}

std::vector<int64_t> strides_of(const std::vector<int64_t>& sizes, Format format) {
  std::vector<int64_t> strides(sizes.size());
  const std::vector<int> order = order_of(sizes.size(), format);
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = stride;
    if (__builtin_mul_overflow(stride, std::max<int64_t>(sizes[order[i]], 1), &stride)) throw std::bad_alloc();
  }
  return strides;
}

}  // namespace drystone::torch
