// Rows of x that are rounded to int8, group by group, times weights that are codes in groups.
#pragma once

#include "kernels/gemm_groups.h"

namespace drystone::DRYSTONE_ISA {

// A block of rows of x, k from a group's begin to a group's end: [group][row] of RoundedGroup and codes. A group with NaN or an infinity
// has NaN for a scale, one of very small numbers (below 2^-120) zeros alone.
void round_rows(const GemmArgs& a, Range rows, Range k, char* to);

// The tile of such a block. The tile's weights are the strip's first group; its steps, and what it fetches, are not read.
GroupsTileFunction rounded_tile(GemmArithmetic arithmetic, const Groups& kind, int64_t rows, int64_t vectors);
GroupsTileFunction rounded_dot_tile(const Groups& kind, int64_t rows, int64_t vectors);  // in VPDPBUSD

// Four codes of x for all columns.
inline Vector<int32_t, kFloats> four_codes(const char* from) {
  int32_t four;
  __builtin_memcpy(&four, from, sizeof four);
  return Vector<int32_t, kFloats>{} + four;
}

}  // namespace drystone::DRYSTONE_ISA
