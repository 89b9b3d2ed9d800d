// Affine quantisation: a code of 8 bits stands for (code - zero_point) * scale.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace drystone {

// The dtypes of codes, and the lowest of their 256.
constexpr bool is_code(DType dtype) { return dtype == DType::s8 || dtype == DType::u8; }
constexpr int32_t lowest_code(DType dtype) { return dtype == DType::s8 ? -128 : 0; }
constexpr int32_t highest_code(DType dtype) { return lowest_code(dtype) + 255; }

}  // namespace drystone
