#pragma once

#include "kernels/gemm_tile.h"

namespace drystone::DRYSTONE_ISA {

// The tile on codes in VPDPBUSD; and by instructions that every CPU of the ISA has, codes_pairs or codes_wide.
GemmTileFunction codes_dot_tile(int64_t rows, int64_t vectors);
GemmTileFunction codes_tile(GemmArithmetic arithmetic, int64_t rows, int64_t vectors);

}  // namespace drystone::DRYSTONE_ISA
