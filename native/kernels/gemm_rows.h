// Rows of x on their way into the GEMM: copied block by block into the order in which the register tile reads them, so that rows
// whose stride is a multiple of a page do not share cache sets, and widened where the arithmetic is float32.
#pragma once

#include "kernels/gemm.h"
#include "kernels/gemm_tile.h"

namespace drystone::DRYSTONE_ISA {

// How many k a step, and how many a chunk of a packed row.
inline int64_t step_k(const GemmArgs& a) { return a.arithmetic == GemmArithmetic::f32 ? 1 : 2; }
inline int64_t chunk_k(const GemmArgs& a) { return kChunkBytes / gemm_x_bytes(a.arithmetic); }

constexpr GemmTileSize kAmxTile = gemm_tile(GemmArithmetic::bf16_tiles, kFloats);
inline bool on_amx(const GemmArgs& a) { return a.arithmetic == GemmArithmetic::bf16_tiles; }

// How many tiles rows take one below the other. By constants: other divisions are felt in the smallest GEMMs.
inline int64_t row_blocks(const GemmArgs& a, int64_t rows) {
  return on_amx(a) ? ceil_div(rows, kAmxTile.rows) : ceil_div(rows, kTile.rows);
}

// Block `index` of `blocks` nearly equal ones of rows [0, total). AMX gets whole units, of which the first block lacks what makes them
// come out even: with two blocks or more, none is smaller than a unit.
inline Range row_block(const GemmArgs& a, int64_t total, int64_t index, int64_t blocks) {
  if (!on_amx(a)) return share(total, index, blocks);
  constexpr int64_t unit = kAmxTile.unit;
  const int64_t units = ceil_div(total, unit), lacking = units * unit - total;
  const Range some = share(units, index, blocks);
  return {index == 0 ? 0 : some.begin * unit - lacking, some.end * unit - lacking};
}

// One row's elements [0, count) of a block of k, chunk by chunk; what is left of the last chunk becomes 0.
template <class To, class From>
void pack_row(const From* from, int64_t count, char* to, int64_t stride) {
  constexpr int chunk = kChunkBytes / sizeof(To);
  for (int64_t k = 0; k < count; k += chunk, to += stride) {
    To* y = reinterpret_cast<To*>(to);
    const int64_t some = least(chunk, count - k);
    const auto convert = [&](int64_t i) {
      if constexpr (sizeof(To) == sizeof(From)) {
        return from[k + i];
      } else {
        return from_bf16(from[k + i]);
      }
    };
    if (some == chunk) {
#pragma omp simd
      for (int i = 0; i < chunk; i++) y[i] = convert(i);
    } else {
      for (int i = 0; i < chunk; i++) y[i] = i < some ? convert(i) : To{};
    }
  }
}

// Row blocks of `rows`, each [chunk][row][64 bytes].
inline void pack_rows(const GemmArgs& a, Range rows, Range k, char* to) {
  const int64_t count = rows.end - rows.begin, blocks = row_blocks(a, count), depth = k.end - k.begin;
  const int64_t chunks = ceil_div(depth, chunk_k(a));
  for (int64_t b = 0; b < blocks; b++) {
    const Range block = row_block(a, count, b, blocks);
    const int64_t stride = (block.end - block.begin) * kChunkBytes;
    for (int64_t r = block.begin; r < block.end; r++, to += kChunkBytes) {
      const int64_t offset = (rows.begin + r) * a.x_stride + k.begin;
      const auto* narrow = static_cast<const uint16_t*>(a.x) + offset;
      if (a.x_dtype == DType::f32)
        pack_row<float>(static_cast<const float*>(a.x) + offset, depth, to, stride);
      else if (gemm_x_bytes(a.arithmetic) == 4)
        pack_row<float>(narrow, depth, to, stride);
      else
        pack_row<uint16_t>(narrow, depth, to, stride);
    }
    to += (chunks - 1) * stride;
  }
}

}  // namespace drystone::DRYSTONE_ISA
