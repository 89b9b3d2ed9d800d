#pragma once

#include "kernels/gemm_tile.h"

namespace drystone::DRYSTONE_ISA {

// The tile in VDPBF16PS; null in the kernels of an ISA that can't have it.
GemmTileFunction dot_tile(int64_t rows, int64_t vectors);
GemmTileFunction dot_tile_of_width(int64_t rows, int64_t vectors);  // of 2 to 4 vectors, rows_beside() them

}  // namespace drystone::DRYSTONE_ISA
