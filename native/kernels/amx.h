// The AMX instructions of the GEMM, on tile registers 0 to 7. Only for sources of the AVX-512 kernels, and to be run only where
// has(Feature::amx_bf16) or has(Feature::amx_int8). With DRYSTONE_EMULATE_AMX, plain C++ that does what they are documented to do, for
// machines without AMX.
//
// In assembly, because a register's number is a template parameter here, which the compiler's intrinsics do not take, and because
// those of GCC 12 do not tell it which memory they read. So no flag and no target attribute is needed, and there is none under which
// the compiler would make such an instruction itself.
#pragma once

#include <cstdint>

namespace drystone::DRYSTONE_ISA::amx {

constexpr int kTileRows = 16, kTileRowBytes = 64, kTiles = 8;

// What LDTILECFG reads. Tiles of no rows and no bytes can't be used.
struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace drystone::DRYSTONE_ISA::amx

#ifdef DRYSTONE_EMULATE_AMX
#include "kernels/amx_emulated.h"
#else

namespace drystone::DRYSTONE_ISA::amx {

inline void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }

inline void release() { asm volatile("tilerelease"); }

// Rows lie `stride` bytes apart.
template <int Tile>
inline void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(Tile) : "memory");
}

template <int Tile>
inline void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(Tile) : "memory");
}

// sums[m][n] += x[m][k] * w[k][n], where x and w hold pairs of bfloat16 and sums float32.
template <int Sums, int X, int W>
inline void multiply_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(X), "i"(W));
}

// The same where x holds fours of u8, w fours of s8, and sums int32.
template <int Sums, int X, int W>
inline void multiply_codes() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(X), "i"(W));
}

}  // namespace drystone::DRYSTONE_ISA::amx

#endif
