// The tile of rounded rows in AVX-512 VNNI or AVX-VNNI: VPDPBUSD adds the four products of u8, the weights' codes, by s8, those of x. Its
// instructions are in this file and in gemm_codes_dot.cpp; steps/gemm.cpp asks for it where the CPU has them.
#include "kernels/gemm_rounded.h"

// From here on, so for the templates of the tile, but not for what the headers above share with other sources.
#ifdef __AVX512F__
#pragma GCC target("avx512vnni")
#else
#pragma GCC target("avxvnni")
#endif

#include "kernels/gemm_rounded_tile.h"

namespace drystone::DRYSTONE_ISA {

namespace {

using Sum = Vector<int32_t, kFloats>;

__attribute__((always_inline)) inline void add(Sum& sum, Sum weight, const char* four) {
#ifdef __AVX512F__
  sum = (Sum)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weight, (__m512i)four_codes(four));
#else
  sum = (Sum)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)weight, (__m256i)four_codes(four));
#endif
}

struct Dot {
  template <int Bits>
  struct Word;
};

template <>
struct Dot::Word<8> {
  Sum codes;
  Word() = default;
  explicit Word(Sum word) : codes(word) {}
  __attribute__((always_inline)) inline void multiply(Sum& sum, const char* x) const { add(sum, codes, x); }
};

template <>
struct Dot::Word<4> {
  Sum low, high;
  Word() = default;
  explicit Word(Sum word) : low(word & 0x0f0f0f0f), high(word >> 4 & 0x0f0f0f0f) {}
  __attribute__((always_inline)) inline void multiply(Sum& sum, const char* x) const {
    add(sum, low, x);
    add(sum, high, x + 4);
  }
};

}  // namespace

GroupsTileFunction rounded_dot_tile(const Groups& kind, int64_t rows, int64_t vectors) { return rounded_tile_of<Dot>(kind, rows, vectors); }

}  // namespace drystone::DRYSTONE_ISA
