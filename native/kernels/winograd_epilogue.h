// The epilogue of Winograd's convolution, on a tile of results before they are stored.
#pragma once

#include "kernels/codes.h"
#include "kernels/winograd_tiles.h"

namespace drystone::DRYSTONE_ISA {

// What an operand holds, added to a tile.
template <int m, class T>
inline void add_operand(const WinogradOp& op, const Position& at, int64_t c, int64_t rows, int64_t columns, Floats* y) {
  const T* from = static_cast<const T*>(op.operand) + offset(op.map, at, c);
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t j = 0; j < columns; j++) {
      const Floats x = load<kFloats>(from + i * op.map.row + j * op.map.column);
      y[i * m + j] += sizeof(T) == 1 ? (x - op.affine.zero_point) * op.affine.scale : x;
    }
  }
}

// y: a tile of results, of which the first rows x columns exist; c: their first channel.
template <int m>
inline void apply(const WinogradOp& op, const Position& at, int64_t c, int64_t rows, int64_t columns, Floats* y) {
  const Floats zero = {};
  switch (op.kind) {
    case WinogradOpKind::relu:
      for (int i = 0; i < m * m; i++) y[i] = y[i] < zero ? zero : y[i];
      break;
    case WinogradOpKind::leaky_relu:
      for (int i = 0; i < m * m; i++) y[i] = y[i] < zero ? y[i] * op.alpha : y[i];
      break;
    case WinogradOpKind::clamp:
      for (int i = 0; i < m * m; i++) {
        const Floats above = y[i] < op.alpha ? zero + op.alpha : y[i];
        y[i] = above > op.beta ? zero + op.beta : above;
      }
      break;
    case WinogradOpKind::add:
      if (op.dtype == DType::u8) return add_operand<m, uint8_t>(op, at, c, rows, columns, y);
      if (op.dtype == DType::s8) return add_operand<m, int8_t>(op, at, c, rows, columns, y);
      return add_operand<m, float>(op, at, c, rows, columns, y);
  }
}

}  // namespace drystone::DRYSTONE_ISA
