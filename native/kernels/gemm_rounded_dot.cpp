// The tile of rounded rows in AVX-512 VNNI or AVX-VNNI, of u8, the weights' codes, by s8, those of x.
#include "kernels/gemm_rounded.h"
#include "kernels/vnni.h"

DRYSTONE_FROM_HERE_ON_VNNI

#include "kernels/gemm_rounded_tile.h"

namespace drystone::DRYSTONE_ISA {

namespace {

using Sum = Vector<int32_t, kFloats>;

__attribute__((always_inline)) inline void add(Sum& sum, Sum weight, const char* four) {
  sum = add_fours(sum, weight, (Sum)four_codes(four));
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
