// NaN and infinities in Winograd's convolution. One of them in the input of a tile makes all its transformed points that read
// it NaN or infinite, so it would reach outputs whose 3x3 window does not hold it. Those tiles are found by their results and
// computed again as sums over windows, from weights that are taken back out of the transformed ones. Rare, so written for clarity.
#pragma once

#include "kernels/winograd_tiles.h"
#include "kernels/winograd_transforms.h"

namespace drystone::DRYSTONE_ISA {

inline bool any_bit(const Vector<uint64_t, 2>& v) { return (v[0] | v[1]) != 0; }
inline bool any_bit(const Vector<uint64_t, 4>& v) {
  return any_bit(__builtin_shufflevector(v, v, 0, 1) | __builtin_shufflevector(v, v, 2, 3));
}
inline bool any_bit(const Vector<uint64_t, 8>& v) {
  return any_bit(__builtin_shufflevector(v, v, 0, 1, 2, 3) | __builtin_shufflevector(v, v, 4, 5, 6, 7));
}

// Whether all m x m results of a tile are finite and were computed from finite values only. Four of them tell: each input has a
// share in one of the four points whose coordinates are 0 or infinity, and the products at each point, of whatever coordinates,
// have a share in at least one of the results at the corners. A sum that overflows says no needlessly, which does no harm.
template <int m>
inline bool all_finite(const Floats* y) {
  const Floats corners = (y[0] + y[m - 1]) + (y[m * (m - 1)] + y[m * m - 1]);
  const Floats zero = corners - corners;  // or NaN
  return !any_bit((Vector<uint64_t, kFloats / 2>)zero);
}

// The 3x3 weights g of one input channel and a vector of output channels, from their points, `stride` apart. The points 0 and infinity
// hold the outer weights up to a factor and the points +-p differ by the middle one, so that a weight of 0 is exactly 0 again, as
// infinity * 0 has to be NaN. Only the one at the centre is a difference of differences, of which rounding errors may remain.
template <int m>
inline void recover_weights(const float* u, int64_t stride, Floats* g) {
  constexpr int last = m + 1;
  constexpr float outer = Transform<m>::outer_weight, middle = Transform<m>::middle_weight;
  const auto at = [&](int i, int j) { return load<kFloats>(u + (i * (m + 2) + j) * stride); };
  g[0] = at(0, 0) * (outer * outer);
  g[1] = (at(0, 1) - at(0, 2)) * (outer * middle);
  g[2] = at(0, last) * outer;
  g[3] = (at(1, 0) - at(2, 0)) * (middle * outer);
  g[5] = (at(1, last) - at(2, last)) * middle;
  g[6] = at(last, 0) * outer;
  g[7] = (at(last, 1) - at(last, 2)) * middle;
  g[8] = at(last, last);

  const auto magnitude = [](const Floats& v) { return v < 0 ? -v : v; };
  const Floats a = at(1, 1), b = at(1, 2), c = at(2, 1), d = at(2, 2), centre = (a - b) - (c - d);
  const Floats error = 0x1p-23f * (magnitude(a) + magnitude(b) + magnitude(c) + magnitude(d));
  g[4] = magnitude(centre) <= error ? Floats{} : centre * (middle * middle);
}

// The taps of a window that starts at `start` which lie inside [0, size): padding is not read, as 0 * infinity would be NaN.
inline Range taps_inside(int64_t start, int64_t size, int64_t taps = 3) { return {start < 0 ? -start : 0, least(taps, size - start)}; }

// y: the first rows x columns of the m x m results of a tile, for the vector of output channels from channel `out` on.
template <int m>
__attribute__((noinline)) void convolve_directly(const WinogradArgs& a, const Position& at, int64_t out, const Floats& bias, int64_t rows,
                                                 int64_t columns, Floats* y) {
  const int64_t vector = out / kFloats, panel = vector / kPanel, width = panel_width(a, panel), front = at.slice - a.pad_front;
  for (int i = 0; i < m * m; i++) y[i] = bias;
  const Range deep = taps_inside(front, a.in_depth, a.taps);
  for (int64_t tap = deep.begin; tap < deep.end; tap++) {
    const float* u = panel_weights(a, panel, tap, 0) + vector % kPanel * kFloats;
    for (int64_t c = 0; c < a.in_channels; c++) {
      Floats g[9];
      recover_weights<m>(u + c * width * kFloats, width * kFloats * a.in_channels, g);
      const float* in = static_cast<const float*>(a.input) + offset(a.in_map, {at.image, front + tap, 0, 0}, c);
      for (int64_t i = 0; i < rows; i++) {
        const int64_t top = at.row + i - a.pad_top;
        const Range down = taps_inside(top, a.in_height);
        for (int64_t j = 0; j < columns; j++) {
          const int64_t left = at.column + j - a.pad_left;
          const Range across = taps_inside(left, a.in_width);
          Floats sum = {};
          for (int64_t h = down.begin; h < down.end; h++)
            for (int64_t w = across.begin; w < across.end; w++)
              sum += g[h * 3 + w] * in[(top + h) * a.in_map.row + (left + w) * a.in_map.column];
          y[i * m + j] += sum;
        }
      }
    }
  }
}

}  // namespace drystone::DRYSTONE_ISA
