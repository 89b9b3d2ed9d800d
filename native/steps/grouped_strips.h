#pragma once

#include <cstddef>
#include <string>

#include "core/groups.h"

namespace drystone {

// Weights (n, k) in groups of codes, packed into the strips of columns that the GEMM reads (kernels/gemm.h).
// Throws std::invalid_argument for groups that do not divide k, or do not fill words.
struct GroupedStrips {
  GroupedStrips(int64_t n, int64_t k, const Groups& kind);

  int64_t packed_bytes() const;
  std::string packed_key() const;  // equal keys: the same bytes for the same weights
  // codes: (n, k) bytes, or of 4 bits (n, k / 2), the first of two in the low half; scales and minima (null without): (n, groups).
  void pack(const void* codes, const void* scales, const void* minima, void* packed) const;
  // A row of floats out of what was packed.
  void decode(const std::byte* packed, int64_t row, float* to) const;

  Groups kind;
  int64_t n, k, strip, lanes;  // lanes: to whose multiple the last strip is filled up

 private:
  struct Strip;
  Strip at(int64_t row) const;
};

}  // namespace drystone
