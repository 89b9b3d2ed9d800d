// The GEMM's register tile on codes in AVX-512 VNNI or AVX-VNNI.
#include "kernels/block.h"
#include "kernels/gemm.h"
#include "kernels/vectors.h"
#include "kernels/vnni.h"

DRYSTONE_FROM_HERE_ON_VNNI

#include "kernels/gemm_codes_tile.h"

namespace drystone::DRYSTONE_ISA {

namespace {

struct CodesDot {
  using Sum = Vector<int32_t, kFloats>;
  static constexpr int step_bytes = 4;

  template <int Rows, int Vectors>
  __attribute__((always_inline)) static inline void step(const char* x, const char* w, Sum (&sum)[Rows][Vectors]) {
    Sum weight[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; j++) weight[j] = load_raw<kFloats>(reinterpret_cast<const int32_t*>(w) + j * kFloats);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      int four;
      __builtin_memcpy(&four, x + r * kChunkBytes, sizeof four);
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) sum[r][j] = add_fours(sum[r][j], Sum{} + four, weight[j]);
    }
  }
};

}  // namespace

GemmTileFunction codes_dot_tile(int64_t rows, int64_t vectors) { return tile_of<CodesDot>(rows, vectors); }

}  // namespace drystone::DRYSTONE_ISA
