// Where things lie that Winograd's convolution reads and writes: channels of a map, tiles of the outputs, panels of the weights.
#pragma once

#include "kernels/block.h"
#include "kernels/vectors.h"
#include "kernels/winograd.h"

namespace drystone::DRYSTONE_ISA {

constexpr int kPanel = 2;  // vectors of output channels multiplied together

// Where a tile lies: its image and slice, and its first output there.
struct Position {
  int64_t image, slice, row, column;
};

inline int64_t offset(const WinogradMap& map, const Position& at, int64_t c) {
  return at.image * map.image + c / map.block * map.block_stride + c % map.block + at.slice * map.slice + at.row * map.row +
         at.column * map.column;
}

inline Position position(const WinogradArgs& a, int64_t tile) {
  const int64_t rows = tile / a.tile_columns, slices = rows / a.tile_rows;
  return {slices / a.out_depth, slices % a.out_depth, rows % a.tile_rows * a.tile, tile % a.tile_columns * a.tile};
}

// Vectors of output channels in a panel: the last may have fewer.
inline int64_t panel_width(const WinogradArgs& a, int64_t panel) { return least(kPanel, a.out_channels / kFloats - panel * kPanel); }

// The weights of a panel at a point of a tap: [in channel][vector of the panel][lane].
template <class Weight = float>
inline const Weight* panel_weights(const WinogradArgs& a, int64_t panel, int64_t tap, int64_t point) {
  const int64_t points = (a.tile + 2) * (a.tile + 2);
  const int64_t before = panel * kPanel * a.taps * points + (tap * points + point) * panel_width(a, panel);
  return static_cast<const Weight*>(a.weights) + before * kFloats * a.in_channels;
}

}  // namespace drystone::DRYSTONE_ISA
