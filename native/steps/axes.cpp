#include "steps/axes.h"

#include <stdexcept>

namespace drystone {

// Whether the channels lie one behind the other although the format has blocks, as in (N, C, 1, 1).
static bool is_line(const TensorDesc& desc) {
  const int64_t block = desc.format.block;
  return block == 1 || desc.strides[1] == block || desc.padded_channels() == block;
}

Dims strides_with_block(const TensorDesc& desc, int64_t block) {
  Dims strides;
  const int64_t own = desc.format.block;
  for (int64_t i = 0; i < desc.rank(); i++) {
    if (i == 1 && (own > 1 || block > 1)) {
      int64_t outer = desc.strides[1] * block, inner = desc.strides[1];
      if (own > 1) {
        if (own != block && !is_line(desc))
          throw std::invalid_argument(desc.str() + " can't be walked in channel blocks of " + std::to_string(block));
        outer = own == block ? desc.strides[1] : block;
        inner = 1;
      }
      if (desc.shape[1] <= 1) outer = inner = 0;
      if (block > 1) strides.push_back(desc.shape[1] > block ? outer : 0);
      strides.push_back(inner);
    } else {
      strides.push_back(desc.shape[i] == 1 ? 0 : desc.strides[i]);
    }
  }
  return strides;
}

Dims sizes_with_block(const Dims& shape, int64_t block) {
  Dims sizes;
  for (size_t i = 0; i < shape.size(); i++) {
    if (i == 1 && block > 1) {
      sizes.push_back(shape[1] / block);
      sizes.push_back(block);
    } else {
      sizes.push_back(shape[i]);
    }
  }
  return sizes;
}

int64_t common_block(const TensorDesc& a, const TensorDesc& b) {
  const int64_t of_a = a.format.block, of_b = b.format.block;
  if (of_a == of_b || is_line(b)) return of_a;
  return of_b;
}

std::vector<Axis> collapse(const std::vector<Axis>& axes) {
  std::vector<Axis> merged;
  for (const Axis& axis : axes) {
    if (axis.size == 1) continue;
    if (!merged.empty() && merged.back().group == axis.group) {
      Axis& last = merged.back();
      bool together = true;
      for (size_t i = 0; i < axis.strides.size(); i++) together &= last.strides[i] == axis.strides[i] * axis.size;
      if (together) {
        last.size *= axis.size;
        last.strides = axis.strides;
        continue;
      }
    }
    merged.push_back(axis);
  }
  return merged;
}

void check_operand(const TensorDesc& desc, const std::string& name) {
  require_float(desc.dtype, name);
  check_operand_or_codes(desc, name);
}

void check_operand_or_codes(const TensorDesc& desc, const std::string& name) {
  if (!is_code(desc.dtype)) require_float(desc.dtype, name);
  if (desc.shape.size() != desc.strides.size()) throw std::invalid_argument(name + " has a stride too many or too few");
  for (int64_t stride : desc.strides)
    if (stride < 0) throw std::invalid_argument(name + " has a negative stride");
  desc.bytes();  // throws where the size overflows
}

}  // namespace drystone
