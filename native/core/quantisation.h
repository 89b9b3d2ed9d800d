// Affine quantisation: a code of 8 bits stands for (code - zero_point) * scale.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace drystone {

// The dtypes of codes, and the lowest of their 256.
constexpr bool is_code(DType dtype) { return dtype == DType::s8 || dtype == DType::u8; }
constexpr int32_t lowest_code(DType dtype) { return dtype == DType::s8 ? -128 : 0; }
constexpr int32_t highest_code(DType dtype) { return lowest_code(dtype) + 255; }

// Both ways of a tensor's quantisation, as kernels have them. Codes are made as torch's quantized_decomposed makes them: round(x * inverse)
// to the nearest, ties to even, plus the zero point, kept within the dtype's codes; a NaN becomes the code 0.
struct Affine {
  float scale = 1, inverse = 1, zero_point = 0;
};

}  // namespace drystone
