// The GEMM's register tile on codes in AVX-512 VNNI or AVX-VNNI: VPDPBUSD adds the four products of u8 by s8 to each int32 sum. Its
// instructions are in this file alone; steps/gemm.cpp asks for it where the CPU has them.
#include <immintrin.h>

#include "kernels/block.h"
#include "kernels/gemm.h"
#include "kernels/vectors.h"

// From here on, so for the templates of the tile, but not for what the headers above share with other sources.
#ifdef __AVX512F__
#pragma GCC target("avx512vnni")
#else
#pragma GCC target("avxvnni")
#endif

#include "kernels/gemm_codes_tile.h"

namespace drystone::DRYSTONE_ISA {

namespace {

struct CodesDot {
  using Sum = Vector<int32_t, kFloats>;
  static constexpr int step_bytes = 4;

  __attribute__((always_inline)) static inline Sum add(Sum sum, int x, Sum weight) {
#ifdef __AVX512F__
    return (Sum)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(x), (__m512i)weight);
#else
    return (Sum)_mm256_dpbusd_avx_epi32((__m256i)sum, _mm256_set1_epi32(x), (__m256i)weight);
#endif
  }

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
      for (int j = 0; j < Vectors; j++) sum[r][j] = add(sum[r][j], four, weight[j]);
    }
  }
};

}  // namespace

GemmTileFunction codes_dot_tile(int64_t rows, int64_t vectors) { return tile_of<CodesDot>(rows, vectors); }

}  // namespace drystone::DRYSTONE_ISA
