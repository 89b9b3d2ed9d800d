// Transposition of W x W tiles in registers, and of rectangles by tiles: out[q * out_stride + p] = in[p * in_stride + q].
//
// A tile takes log2(W) rounds: round D exchanges the off-diagonal D x D blocks between rows i and i + D, two shuffles a pair of
// rows. W is a full vector of 4-byte elements (16 under AVX-512, 8 under AVX2), and 16 for smaller ones.
#pragma once

#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

template <int... I>
struct Indices {};

template <int D, class V, int... I>
inline void exchange(V& a, V& b, Indices<I...>) {
  constexpr int width = sizeof...(I);
  const V first = __builtin_shufflevector(a, b, ((I & D) ? width + I - D : I)...);
  const V second = __builtin_shufflevector(a, b, ((I & D) ? width + I : I + D)...);
  a = first;
  b = second;
}

template <int D, int W, class V>
inline void exchange_round(V* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < W; i++)
    if (!(i & D)) exchange<D>(rows[i], rows[i + D], Indices<__integer_pack(W)...>());
}

inline Vector<uint16_t, 16> convert_row(const float* from, Vector<uint16_t, 16>*) {
  Vector<uint16_t, 16> row;
  for (int half = 0; half < 16; half += kFloats) {
    const auto part = to_bf16<kFloats>(load<kFloats>(from + half));
    __builtin_memcpy(reinterpret_cast<uint16_t*>(&row) + half, &part, sizeof part);
  }
  return row;
}
inline Vector<uint16_t, 8> convert_row(const float* from, Vector<uint16_t, 8>*) { return to_bf16<8>(load<8>(from)); }
inline Vector<uint16_t, 4> convert_row(const float* from, Vector<uint16_t, 4>*) { return to_bf16<4>(load<4>(from)); }
template <int W>
inline Vector<float, W> widen_row(const uint16_t* from) {
  return load<W>(from);
}

// One row of a tile: W elements at `from`, as output elements.
template <class Out, int W, class In>
inline Vector<Out, W> tile_row(const In* from) {
  if constexpr (sizeof(In) == sizeof(Out)) {
    return load_raw<W>(from);
  } else if constexpr (sizeof(In) > sizeof(Out)) {
    return convert_row(from, static_cast<Vector<Out, W>*>(nullptr));
  } else {
    return widen_row<W>(from);
  }
}

template <int W, class In, class Out>
inline void transpose_tile(const In* in, Out* out, int64_t in_stride, int64_t out_stride) {
  Vector<Out, W> rows[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) rows[i] = tile_row<Out, W>(in + i * in_stride);
  if constexpr (W > 8) exchange_round<8, W>(rows);
  if constexpr (W > 4) exchange_round<4, W>(rows);
  exchange_round<2, W>(rows);
  exchange_round<1, W>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) store_raw(out + i * out_stride, rows[i]);
}

}  // namespace drystone::DRYSTONE_ISA
