// Weights that are codes in groups on their way into the GEMM: decoded in registers for a few rows of x, or a strip at a time into
// the floats that a register tile reads, for many.
#pragma once

#include <immintrin.h>

#include "kernels/gemm_tile.h"

namespace drystone::DRYSTONE_ISA {

constexpr int64_t kGroupsAhead = 4096;  // bytes that weights in groups are fetched ahead of their use

// A group of a strip: the one with so many before it. Scales of all columns, minima, words.
inline const char* group_at(const Groups& kind, const char* strip, int64_t vectors, int64_t index) {
  return strip + index * vectors * kFloats * kind.column_bytes();
}

inline Floats load_half(const char* from) {
#ifdef __AVX512F__
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#else
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#endif
}

// Vector v of a group's scales, or minima.
inline Floats numbers_of(const Groups& kind, const char* from, int v) {
  return kind.dtype == DType::f16 ? load_half(from + v * kFloats * 2) : load<kFloats>(reinterpret_cast<const float*>(from) + v * kFloats);
}

// A tile of a few rows of float32 over all k from begin, where a chunk of x begins, to end. The tile's weights are the strip's first
// group; its steps, and what it fetches, are not read.
using GroupsTileFunction = void (*)(const GemmTile&, const Groups&, int64_t begin, int64_t end);
GroupsTileFunction groups_tile(const Groups& kind, int64_t rows, int64_t vectors);

// For a few rows whose numbers are neither very large nor all very small, and groups that are not long: scales them, so that codes need not
// be shifted to be multiplied, and sums up what each group meets, x_sums [row][group]. False: nothing was done, they are for groups_tile().
bool scale_for_groups(const Groups& kind, char* x, int64_t rows, int64_t begin, int64_t end, float* x_sums);
// The tile of such rows.
void multiply_scaled(const GemmTile& t, int64_t vectors, const Groups& kind, int64_t begin, int64_t end, const float* x_sums);

// The weights [begin, end) of a strip as floats, as a tile of this arithmetic reads them. Their number is rounded up to whole words.
void decode_strip(const Groups& kind, GemmArithmetic arithmetic, const char* strip, int64_t vectors, int64_t begin, int64_t end, char* to);

}  // namespace drystone::DRYSTONE_ISA
