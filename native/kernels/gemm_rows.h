// Rows of x on their way into the GEMM: copied block by block into the order in which the register tile reads them, so that rows
// whose stride is a multiple of a page do not share cache sets, widened where the arithmetic is float32, and quantised where it is on
// codes.
#pragma once

#include "kernels/gemm.h"
#include "kernels/gemm_codes.h"
#include "kernels/gemm_tile.h"

namespace drystone::DRYSTONE_ISA {

// How many k a step, and how many a chunk of a packed row.
inline int64_t step_k(const GemmArgs& a) { return gemm_step_k(a.arithmetic); }
inline int64_t chunk_k(const GemmArgs& a) { return gemm_chunk_k(a); }

constexpr GemmTileSize kAmxTile = gemm_tile(GemmArithmetic::bf16_tiles, kFloats);
inline bool on_amx(const GemmArgs& a) { return gemm_on_tiles(a.arithmetic); }

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
template <class To, class Element>
void pack_row(int64_t count, char* to, int64_t stride, Element element) {
  constexpr int chunk = kChunkBytes / sizeof(To);
  for (int64_t k = 0; k < count; k += chunk, to += stride) {
    To* y = reinterpret_cast<To*>(to);
    const int64_t some = least(chunk, count - k);
    if (some == chunk) {
#pragma omp simd
      for (int i = 0; i < chunk; i++) y[i] = static_cast<To>(element(k + i));
    } else {
      for (int i = 0; i < chunk; i++) y[i] = i < some ? static_cast<To>(element(k + i)) : To{};
    }
  }
}

// The same in whole chunks alone: what is left is put before `fill`s first, which weights of 0 meet.
template <class To, class From, class Encode>
void pack_row_of_codes(const From* from, int64_t count, char* to, int64_t stride, From fill, Encode encode) {
  constexpr int chunk = kChunkBytes / sizeof(To);
  for (int64_t k = 0; k < count; k += chunk, to += stride) {
    alignas(64) From rest[chunk];
    const From* x = from + k;
    if (count - k < chunk) {
      for (int i = 0; i < chunk; i++) rest[i] = fill;
      copy_bytes(reinterpret_cast<uint8_t*>(rest), reinterpret_cast<const uint8_t*>(x), (count - k) * static_cast<int64_t>(sizeof(From)));
      x = rest;
    }
    To* y = reinterpret_cast<To*>(to);
#pragma omp simd
    for (int i = 0; i < chunk; i++) y[i] = static_cast<To>(encode(x[i]));
  }
}

// u8 as it is, but for bits that are flipped; of s8 the sign.
inline void pack_bytes(const uint8_t* from, int64_t count, char* to, int64_t stride, uint8_t flip) {
#ifdef __AVX512F__
  const __m512i flips = _mm512_set1_epi8(static_cast<char>(flip));
  for (int64_t k = 0; k < count; k += kChunkBytes, to += stride) {
    const __mmask64 there = count - k < kChunkBytes ? (uint64_t{1} << (count - k)) - 1 : ~uint64_t{0};
    _mm512_storeu_si512(to, _mm512_maskz_xor_epi64(0xff, _mm512_maskz_loadu_epi8(there, from + k), flips));
  }
#else
  pack_row_of_codes<uint8_t>(from, count, to, stride, flip, [=](uint8_t code) { return static_cast<uint8_t>(code ^ flip); });
#endif
}

template <class To>
void pack_bytes_as(const GemmArgs& a, const uint8_t* x, int64_t count, char* to, int64_t stride) {
  const uint8_t flip = a.x_dtype == DType::s8 ? 0x80 : 0;
  if constexpr (sizeof(To) == 1)
    pack_bytes(x, count, to, stride, flip);
  else
    pack_row_of_codes<To>(x, count, to, stride, flip, [=](uint8_t code) { return static_cast<uint8_t>(code ^ flip); });
}

// Rows that are patches: first all of them are put together, so that none is read while it is being written, then packed in whole chunks,
// as weights of 0 meet what is left of the last one.
template <class To>
void pack_patches(const GemmArgs& a, Range rows, Range k, const Codes& codes, char* to, int64_t stride) {
  const int64_t bytes = ceil_div(k.end - k.begin, chunk_k(a)) * chunk_k(a);
  uint8_t* const memory = codes.for_patches();
  for (int64_t row = rows.begin; row < rows.end; row++) Codes::patch(a, row, k, memory + (row - rows.begin) * bytes);
  for (int64_t i = 0; i < rows.end - rows.begin; i++) pack_bytes_as<To>(a, memory + i * bytes, bytes, to + i * kChunkBytes, stride);
}

template <class To>
void pack_codes(const GemmArgs& a, int64_t row, Range k, const Codes& codes, char* to, int64_t stride) {
  const int64_t depth = k.end - k.begin, offset = row * a.x_stride + k.begin;
  if (a.dynamic.by != GemmDynamic::By::none) {
    const Encoder encode(a.dynamic, codes.of(row));
    if (a.x_dtype == DType::f32) return pack_row_of_codes<To>(static_cast<const float*>(a.x) + offset, depth, to, stride, 0.0f, encode);
    return pack_row_of_codes<To>(static_cast<const uint16_t*>(a.x) + offset, depth, to, stride, uint16_t{0},
                                 [=](uint16_t x) { return encode(from_bf16(x)); });
  }
  pack_bytes_as<To>(a, static_cast<const uint8_t*>(a.x) + offset, depth, to, stride);
}

// Row blocks of `rows`, each [chunk][row][64 bytes].
inline void pack_rows(const GemmArgs& a, Range rows, Range k, const Codes& codes, char* to) {
  const int64_t count = rows.end - rows.begin, blocks = row_blocks(a, count), depth = k.end - k.begin;
  const int64_t chunks = ceil_div(depth, chunk_k(a));
  const bool wide_codes = a.arithmetic == GemmArithmetic::codes_wide;
  for (int64_t b = 0; b < blocks; b++) {
    const Range block = row_block(a, count, b, blocks);
    const int64_t stride = (block.end - block.begin) * kChunkBytes;
    if (a.has_patches) {
      const Range patched{rows.begin + block.begin, rows.begin + block.end};
      wide_codes ? pack_patches<int16_t>(a, patched, k, codes, to, stride) : pack_patches<uint8_t>(a, patched, k, codes, to, stride);
      to += chunks * stride;
      continue;
    }
    for (int64_t r = block.begin; r < block.end; r++, to += kChunkBytes) {
      const int64_t row = rows.begin + r, offset = row * a.x_stride + k.begin;
      const auto* wide = static_cast<const float*>(a.x) + offset;
      const auto* narrow = static_cast<const uint16_t*>(a.x) + offset;
      if (gemm_on_codes(a.arithmetic))
        wide_codes ? pack_codes<int16_t>(a, row, k, codes, to, stride) : pack_codes<uint8_t>(a, row, k, codes, to, stride);
      else if (a.x_dtype == DType::f32)
        pack_row<float>(depth, to, stride, [=](int64_t i) { return wide[i]; });
      else if (gemm_x_bytes(a.arithmetic) == 4)
        pack_row<float>(depth, to, stride, [=](int64_t i) { return from_bf16(narrow[i]); });
      else
        pack_row<uint16_t>(depth, to, stride, [=](int64_t i) { return narrow[i]; });
    }
    to += (chunks - 1) * stride;
  }
}

}  // namespace drystone::DRYSTONE_ISA
