// What the steps on elements of any dtype share: checks of their operands.
#pragma once

#include <stdexcept>
#include <string>

#include "core/tensor.h"

namespace drystone {

inline void check_element(const TensorDesc& desc) {
  if (facts_of(desc.dtype).numbers == Numbers::moved)
    throw std::invalid_argument(std::string("there is no kernel for ") + name_of(desc.dtype));
}

inline void check_plain(const TensorDesc& desc) {
  if (desc.format != Format::plain) throw std::invalid_argument(desc.str() + " is not plain");
  for (int64_t stride : desc.strides)
    if (stride < 0) throw std::invalid_argument(desc.str() + " has a negative stride");
}

inline void check_dense(const TensorDesc& desc) {
  check_plain(desc);
  if (!desc.is_dense()) throw std::invalid_argument(desc.str() + " is not dense");
}

inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

// Strides along the axes of `shape`: aligned at the right, 0 where the operand is broadcast.
inline Dims broadcast_strides(const TensorDesc& desc, const Dims& shape) {
  const int64_t missing = static_cast<int64_t>(shape.size()) - desc.rank();
  require(missing >= 0, desc.str() + " has more axes than the output");
  Dims strides(missing, 0);
  for (int64_t i = 0; i < desc.rank(); i++) {
    require(desc.shape[i] == 1 || desc.shape[i] == shape[i + missing], desc.str() + " does not broadcast");
    strides.push_back(desc.shape[i] == 1 ? 0 : desc.strides[i]);
  }
  return strides;
}

}  // namespace drystone
