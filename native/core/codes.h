// Weights as integers of few bits: how floats are rounded to them.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace drystone {

// Rows (n, k) of float32 or bfloat16, rounded to the nearest codes of `bits` (4 or 8) with a float16 scale for `group` neighbours, which
// divide k: number = scale * (code - 2^(bits - 1)). codes: a byte each, or two in a byte, the first in the low half; scales: (n, k /
// group). The scale is the one that errs least in the squares, of a few ways to round: with the largest number at the end of the codes, or
// somewhat before or beyond it, and then what the rounded codes ask for. Numbers are finite.
void code_weights(DType dtype, const void* weights, int64_t n, int64_t k, int bits, int64_t group, uint8_t* codes, uint16_t* scales);

}  // namespace drystone
