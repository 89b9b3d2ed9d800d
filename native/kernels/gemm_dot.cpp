// The GEMM's register tile in AVX-512 BF16: VDPBF16PS adds the products of a pair of k to each float32 sum. Its instructions are in
// this file alone; steps/gemm.cpp asks for it where the CPU has them. It takes denormal bfloat16 for zeros.
#ifdef __AVX512F__

#include <immintrin.h>

#include "kernels/block.h"
#include "kernels/gemm.h"
#include "kernels/vectors.h"

// From here on, so for the templates of the tile, but not for what the headers above share with other sources.
#pragma GCC target("avx512bf16")

#include "kernels/gemm_dot.h"

namespace drystone::DRYSTONE_ISA {

namespace {

struct Dot {
  using Sum = Floats;
  static constexpr int step_bytes = 4;

  template <int Rows, int Vectors>
  __attribute__((always_inline)) static inline void step(const char* x, const char* w, Floats (&sum)[Rows][Vectors]) {
    __m512i weight[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; j++) weight[j] = _mm512_loadu_si512(w + j * kVectorBytes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      int pair;
      __builtin_memcpy(&pair, x + r * kChunkBytes, sizeof pair);
      const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) sum[r][j] = (Floats)_mm512_dpbf16_ps((__m512)sum[r][j], both, (__m512bh)weight[j]);
    }
  }
};

}  // namespace

GemmTileFunction dot_tile(int64_t rows, int64_t vectors) { return tile_of<Dot>(rows, vectors); }
GemmTileFunction dot_tile_of_width(int64_t rows, int64_t vectors) { return tile_of_width<Dot>(rows, vectors); }

}  // namespace drystone::DRYSTONE_ISA

#else

#include "kernels/gemm.h"
#include "kernels/gemm_dot.h"

namespace drystone::DRYSTONE_ISA {

GemmTileFunction dot_tile(int64_t, int64_t) { return nullptr; }
GemmTileFunction dot_tile_of_width(int64_t, int64_t) { return nullptr; }

}  // namespace drystone::DRYSTONE_ISA

#endif
