#pragma once

#include "kernels/gemm_tile.h"

namespace drystone::DRYSTONE_ISA {

// The tile in VDPBF16PS; null in the kernels of an ISA that can't have it.
GemmTileFunction dot_tile(int64_t rows, int64_t vectors);

}  // namespace drystone::DRYSTONE_ISA
