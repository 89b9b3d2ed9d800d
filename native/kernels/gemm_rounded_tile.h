// The register tile of rounded rows (gemm_rounded.h): products of a group are summed in int32, what it stands for in float32.
//
// A word of weights is four neighbours along k of 8 bits, or two times four of 4 bits, the low halves of its bytes and the high ones: as
// VPDPBUSD and VPMADDUBSW take them. `Math` multiplies one four by one four of x; its weights may be codes, from 0 on, or codes with a
// sign.
#pragma once

#include "kernels/gemm_rounded.h"

namespace drystone::DRYSTONE_ISA {

template <class Math, int Bits, int Rows, int Vectors>
void multiply_rounded(const GemmTile& t, const Groups& kind, int64_t begin, int64_t end) {
  using Sum = Vector<int32_t, kFloats>;
  using Word = typename Math::template Word<Bits>;
  const int64_t x_bytes = RoundedGroup::bytes(kind), words = kind.words(), apart = Vectors * kFloats * size_of(kind.dtype);
  const int64_t last = ceil_div(end, kind.group);
  Floats total[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) total[r][v] = load<kFloats>(t.start + r * t.start_stride + v * kFloats);

  const char* x = t.x;
  for (int64_t index = begin / kind.group; index < last; index++, x += Rows * x_bytes) {
    const char* group = group_at(kind, t.weights, Vectors, index);
    const char* from = group + Vectors * kFloats * kind.header_bytes();
    const char* codes = x + sizeof(RoundedGroup);
    RoundedGroup head[Rows];
    Sum sum[Rows][Vectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      __builtin_memcpy(&head[r], x + r * x_bytes, sizeof head[r]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) sum[r][v] = Sum{} + head[r].start;
    }
    for (int64_t word = 0; word < words; word++, from += Vectors * kVectorBytes, codes += 32 / Bits) {
#pragma GCC unroll 4
      for (int line = 0; line < Vectors * kVectorBytes / 64; line++) __builtin_prefetch(from + kGroupsAhead + line * 64, 0, 2);
      Word weight[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; v++) weight[v] = Word(load_raw<kFloats>(reinterpret_cast<const int32_t*>(from) + v * kFloats));
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; v++) weight[v].multiply(sum[r][v], codes + r * x_bytes);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) {
      const Floats scale = numbers_of(kind, group, v);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++) total[r][v] += __builtin_convertvector(sum[r][v], Floats) * head[r].scale * scale;
      if (!kind.minima) continue;
      const Floats minimum = numbers_of(kind, group + apart, v);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++) total[r][v] += minimum * head[r].sum;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; v++) store<kFloats>(t.sums + r * t.sums_stride + v * kFloats, total[r][v]);
}

template <class Math, int Bits, int Rows = kTile.rows, int Vectors = kTile.vectors>
GroupsTileFunction rounded_tile_of(int64_t rows, int64_t vectors) {
  if constexpr (Rows > 1)
    if (rows < Rows) return rounded_tile_of<Math, Bits, Rows - 1, Vectors>(rows, vectors);
  if constexpr (Vectors > 1)
    if (vectors < Vectors) return rounded_tile_of<Math, Bits, Rows, Vectors - 1>(rows, vectors);
  return multiply_rounded<Math, Bits, Rows, Vectors>;
}

template <class Math>
GroupsTileFunction rounded_tile_of(const Groups& kind, int64_t rows, int64_t vectors) {
  return kind.bits == 4 ? rounded_tile_of<Math, 4>(rows, vectors) : rounded_tile_of<Math, 8>(rows, vectors);
}

}  // namespace drystone::DRYSTONE_ISA
