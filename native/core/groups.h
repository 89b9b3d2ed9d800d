// Weights as integers of few bits, codes, of which groups share a scale.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace drystone {

// Codes of `bits` each, 4 or 8 (0: the weights are no codes), of which `group` neighbours along k share a scale, and a minimum if
// `minima`: a weight is scale * code + minimum, without minima scale * (code - zero()). In memory that is packed, a word of 32 bits holds
// neighbours along k: code i from group_bit() on, so that of 4 bits the low halves of the bytes, and the high ones, are four neighbours.
struct Groups {
  int bits = 0;
  bool minima = false;
  DType dtype = DType::f16;  // of scales and minima; or f32
  int64_t group = 0;         // a multiple of unit(), or all of k

  constexpr int64_t unit() const { return 32 / bits; }  // codes in a word
  // Units to hold a group; by constants, as tiles ask for it each time.
  constexpr int64_t words() const { return bits == 4 ? (group + 7) / 8 : (group + 3) / 4; }
  constexpr float zero() const { return static_cast<float>(1 << (bits - 1)); }
  constexpr int64_t header_bytes() const { return size_of(dtype) * (minima ? 2 : 1); }  // of a column and group: scale and minimum
  constexpr int64_t column_bytes() const { return header_bytes() + words() * 4; }       // all of it
};

constexpr int group_bit(int bits, int i) { return bits == 8 || i < 4 ? 8 * i : 8 * i - 28; }

float from_half(uint16_t half);

// Rows (n, k) of float32 or bfloat16, rounded to the nearest codes of `bits` (4 or 8) with a float16 scale for `group` neighbours, which
// divide k: number = scale * (code - 2^(bits - 1)). codes: a byte each, or two in a byte, the first in the low half; scales: (n, k /
// group). The scale is the one that errs least in the squares, of a few ways to round: with the largest number at the end of the codes, or
// somewhat before or beyond it, and then what the rounded codes ask for. Numbers are finite.
void group_weights(DType dtype, const void* weights, int64_t n, int64_t k, int bits, int64_t group, uint8_t* codes, uint16_t* scales);

}  // namespace drystone
