// What the steps on elements of any dtype share: dtypes as their kernels know them, and checks of plain operands.
#pragma once

#include <stdexcept>
#include <string>

#include "core/tensor.h"
#include "kernels/elementwise.h"

namespace drystone {

inline Element element_of(const TensorDesc& desc) {
  switch (desc.dtype) {
    case DType::f32: return Element::f32;
    case DType::bf16: return Element::bf16;
    case DType::s64: return Element::s64;
    case DType::s32: return Element::s32;
    case DType::s16: return Element::s16;
    case DType::s8: return Element::s8;
    case DType::u8: return Element::u8;
    case DType::boolean: return Element::boolean;
    default: throw std::invalid_argument(std::string("there is no kernel for ") + name_of(desc.dtype));
  }
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
