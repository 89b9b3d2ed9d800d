// The GEMM's register tile on codes without VNNI.
//
// VPMADDUBSW multiplies u8 by s8 and adds pairs of products in 16 bits, where they saturate: not if the weights lie in [-64, 64], since
// 2 * 255 * 64 < 2^15. Two such results are added in 16 bits as well, and then VPMADDWD adds pairs of them in 32: five instructions for
// eight k. Where four weights are so large that this would overflow, packing takes as much from them as does not fit, and the tile adds
// it again in the end (Repairs). Weights of 8 bits are widened to 16 as they are read, x when it is packed, and multiplied by VPMADDWD:
// four instructions for four k.
//
// Zen 3 adds vectors on the pipes that multiply, too, and so reaches 0.75 of two multiplications a cycle. One core, in the first level
// cache: 190 thousand million operations a second by pairs in twos, 155 one by one, 120 of 8 bits; float32 has 85.
#include "kernels/gemm_codes_tile.h"

#include <immintrin.h>

namespace drystone::DRYSTONE_ISA {

namespace {

using Ints = Vector<int32_t, kFloats>;

#ifdef __AVX512F__
inline Ints widen(const char* from) { return (Ints)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }
#else
inline Ints widen(const char* from) { return (Ints)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))); }
#endif

// In assembly, since GCC would compute the products of all rows before it adds the first one, and spill them.
inline void add_bytes(Ints& sum, Ints x, Ints w, const Ints& ones) {
  Ints product;
  __asm__("vpmaddubsw %[w], %[x], %[product]\n\tvpmaddwd %[ones], %[product], %[product]\n\tvpaddd %[product], %[sum], %[sum]"
          : [sum] "+v"(sum), [product] "=&v"(product)
          : [x] "v"(x), [w] "v"(w), [ones] "vm"(ones));
}
inline void add_bytes_twice(Ints& sum, Ints x, Ints y, const char* w, const char* v, const Ints& ones) {
  Ints product, more;
  __asm__(
      "vpmaddubsw %[w], %[x], %[product]\n\tvpmaddubsw %[v], %[y], %[more]\n\tvpaddw %[more], %[product], %[product]\n\t"
      "vpmaddwd %[ones], %[product], %[product]\n\tvpaddd %[product], %[sum], %[sum]"
      : [sum] "+v"(sum), [product] "=&v"(product), [more] "=&v"(more)
      : [x] "v"(x), [y] "v"(y), [w] "m"(*reinterpret_cast<const Ints*>(w)), [v] "m"(*reinterpret_cast<const Ints*>(v)), [ones] "vm"(ones));
}
inline void add_words(Ints& sum, Ints x, Ints w) {
  Ints product;
  __asm__("vpmaddwd %[w], %[x], %[product]\n\tvpaddd %[product], %[sum], %[sum]"
          : [sum] "+v"(sum), [product] "=&v"(product)
          : [x] "v"(x), [w] "v"(w));
}

constexpr int32_t two_ones = 0x00010001;
alignas(64) constexpr int32_t kOnes[] = {two_ones, two_ones, two_ones, two_ones, two_ones, two_ones, two_ones, two_ones,
                                         two_ones, two_ones, two_ones, two_ones, two_ones, two_ones, two_ones, two_ones};

inline Ints all_of(const char* four) {
  int32_t bits;
  __builtin_memcpy(&bits, four, sizeof bits);
  return Ints{} + bits;
}

struct CodesPairs {
  using Sum = Ints;
  static constexpr int step_bytes = 4;

  template <int Rows, int Vectors>
  __attribute__((always_inline)) static inline void step(const char* x, const char* w, Sum (&sum)[Rows][Vectors]) {
    const Ints ones = load_raw<kFloats>(kOnes);
    Ints weight[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; j++) weight[j] = load_raw<kFloats>(reinterpret_cast<const int32_t*>(w) + j * kFloats);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      const Ints four = all_of(x + r * kChunkBytes);
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) add_bytes(sum[r][j], four, weight[j], ones);
    }
  }

  template <int Rows, int Vectors>
  __attribute__((always_inline)) static inline void step_twice(const char* x, const char* w, Sum (&sum)[Rows][Vectors]) {
    const Ints ones = load_raw<kFloats>(kOnes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      const Ints four = all_of(x + r * kChunkBytes), next = all_of(x + r * kChunkBytes + step_bytes);
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++)
        add_bytes_twice(sum[r][j], four, next, w + j * kVectorBytes, w + (j + Vectors) * kVectorBytes, ones);
    }
  }
};

struct CodesWide {
  using Sum = Ints;
  static constexpr int step_bytes = 8;

  template <int Rows, int Vectors>
  __attribute__((always_inline)) static inline void step(const char* x, const char* w, Sum (&sum)[Rows][Vectors]) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      Ints weight[Vectors];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) weight[j] = widen(w + (2 * j + half) * kVectorBytes / 2);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++) {
        const Ints pair = all_of(x + r * kChunkBytes + half * 4);
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; j++) add_words(sum[r][j], pair, weight[j]);
      }
    }
  }
};

}  // namespace

GemmTileFunction codes_tile(GemmArithmetic arithmetic, int64_t rows, int64_t vectors) {
  return arithmetic == GemmArithmetic::codes_pairs ? tile_of<CodesPairs>(rows, vectors) : tile_of<CodesWide>(rows, vectors);
}

}  // namespace drystone::DRYSTONE_ISA
