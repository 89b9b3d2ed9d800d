#pragma once

#include "kernels/gemm_tile.h"

namespace drystone::DRYSTONE_ISA {

// The tile in AMX, for 1 to 32 rows; null in the kernels of an ISA that can't have it.
GemmTileFunction amx_tile(int64_t rows, int64_t vectors);
GemmTileFunction amx_codes_tile(int64_t rows, int64_t vectors);

// Around all tiles of a GEMM of m rows, once in each thread.
void open_tiles(int64_t m);
void close_tiles();

}  // namespace drystone::DRYSTONE_ISA
