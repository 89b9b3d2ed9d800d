// What a register tile (gemm_tile.h) multiplies at a step, in arithmetic that every CPU of the ISA has. VDPBF16PS is in gemm_dot.cpp.
#pragma once

#include "kernels/gemm_tile.h"

namespace drystone::DRYSTONE_ISA {

struct Float32 {
  using Sum = Floats;
  static constexpr int step_bytes = 4;
  static constexpr bool unrolls = true;

  template <int Rows, int Vectors>
  __attribute__((always_inline)) static inline void step(const char* x, const char* w, Floats (&sum)[Rows][Vectors]) {
    Floats weight[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; j++) weight[j] = load<kFloats>(reinterpret_cast<const float*>(w) + j * kFloats);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      const Floats value = all(*reinterpret_cast<const float*>(x + r * kChunkBytes));
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) multiply_add(sum[r][j], weight[j], value);
    }
  }
};

// Weights are pairs of bfloat16, x is float32 already: the even k first, then the odd one.
struct Widened {
  using Sum = Floats;
  static constexpr int step_bytes = 8;
  static constexpr bool unrolls = true;

  template <int Rows, int Vectors>
  __attribute__((always_inline)) static inline void step(const char* x, const char* w, Floats (&sum)[Rows][Vectors]) {
    using Bits = Vector<uint32_t, kFloats>;
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++) {
      Floats weight[Vectors];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) {
        const Bits pair = load_raw<kFloats>(reinterpret_cast<const uint32_t*>(w) + j * kFloats);
        weight[j] = (Floats)(odd ? pair & 0xffff0000 : pair << 16);
      }
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++) {
        const Floats value = all(*reinterpret_cast<const float*>(x + r * kChunkBytes + odd * 4));
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; j++) multiply_add(sum[r][j], weight[j], value);
      }
    }
  }
};

}  // namespace drystone::DRYSTONE_ISA
