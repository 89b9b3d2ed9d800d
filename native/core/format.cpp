#include "core/format.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "core/isa.h"

namespace drystone {

const Format& blocked() {
  return *std::find_if(std::begin(formats), std::end(formats), [](const Format& format) { return format.block == vector_lanes(); });
}

std::vector<int64_t> axes_in_memory(const Format& format, int64_t rank) {
  std::vector<int64_t> axes(rank);
  std::iota(axes.begin(), axes.end(), 0);
  if (format.order == Order::channels_last && rank > 2) std::rotate(axes.begin() + 1, axes.begin() + 2, axes.end());
  return axes;
}

}  // namespace drystone
