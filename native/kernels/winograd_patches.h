// The inputs of a tile on their way into Winograd's domain: m + 2 pixels a side, those outside the map 0.
#pragma once

#include "kernels/winograd_tiles.h"
#include "kernels/winograd_transforms.h"

namespace drystone::DRYSTONE_ISA {

// What the tile to the right adds, while this one is computed: rows lie too far apart for the hardware to foresee them.
template <int m, class T>
inline void fetch_tile(const T* from, int64_t rows, const WinogradMap& map) {
  for (int64_t i = 0; i < rows; i++)
    for (int j = 0; j < m; j++) __builtin_prefetch(from + i * map.row + j * map.column);
}

// A tile whose pixels lie `row` and `column` apart -> its points, `stride` apart.
template <int m>
inline void transform_input(const float* in, int64_t row, int64_t column, float* v, int64_t stride) {
  transform_tile<m, Transform<m>>([&](int i, int j) { return load<kFloats>(in + i * row + j * column); },
                                  [&](int i, int j, const Floats& x) { store<kFloats>(v + (i * (m + 2) + j) * stride, x); });
}

// Where the inputs of a tile begin, and whether all of them exist; known: whether any does.
struct Patch {
  Position at;
  bool known, inside;
};

// at: the tile's first output, of the slice whose first tap is meant.
template <int m>
inline Patch patch_at(const WinogradArgs& a, const Position& at) {
  const Position from = {at.image, at.slice - a.pad_front, at.row - a.pad_top, at.column - a.pad_left};
  const bool known = from.slice >= 0 && from.slice < a.in_depth;
  const bool down = from.row >= 0 && from.row + m + 2 <= a.in_height, across = from.column >= 0 && from.column + m + 2 <= a.in_width;
  return {from, known, known && down && across};
}

// The vector of channels from c on -> its points, `stride` apart.
template <int m>
inline void transform_patch(const WinogradArgs& a, const Patch& patch, int64_t c, float* to, int64_t stride) {
  constexpr int n = m + 2, W = kFloats;
  const WinogradMap& map = a.in_map;
  const auto [image, slice, top, left] = patch.at;
  const float* in = static_cast<const float*>(a.input) + offset(map, {image, slice, 0, 0}, c);
  if (patch.inside) {
    fetch_tile<m>(in + top * map.row + (left + n) * map.column, n, map);
    transform_input<m>(in + top * map.row + left * map.column, map.row, map.column, to, stride);
    return;
  }
  alignas(64) float padded[n * n * W];
  for (int i = 0; i < n; i++) {
    for (int j = 0; j < n; j++) {
      const int64_t h = top + i, w = left + j;
      const bool exists = patch.known && h >= 0 && h < a.in_height && w >= 0 && w < a.in_width;
      store<W>(padded + (i * n + j) * W, exists ? load<W>(in + h * map.row + w * map.column) : Floats{});
    }
  }
  transform_input<m>(padded, n * W, W, to, stride);
}

}  // namespace drystone::DRYSTONE_ISA
