// How Winograd's convolution goes through its blocks of tiles, whatever it computes with.
//
// Method: with the members args, tile, Point (an element of transformed inputs and weights), lanes (input channels transformed
// together), and apart, from a point to the next one of inputs; transform_inputs and transform_outputs as called here. Its products: of
// `together` channels at a step, as vectors of Sum: weights_at of some output channels, input_at of a tile for all of them, add of their
// product to a sum; `run` channels are summed in one go, and then are floats. unrolls: whether add keeps sums in their registers, so that
// more steps are unrolled.
#pragma once

#include <omp.h>

#include "kernels/winograd_tiles.h"

namespace drystone::DRYSTONE_ISA {

constexpr int kGroup = kVectorBytes == 64 ? 14 : 6;  // tiles multiplied together

// The products of `Tiles` tiles with a panel of `Vectors` vectors of output channels. opens: whether sums holds none yet. ahead: what to
// fetch meanwhile, `step` elements a channel.
template <class Method, int Vectors, int Tiles>
void multiply_group(const typename Method::Point* v, int64_t v_stride, const typename Method::Point* u, int64_t channels, bool opens,
                    float* sums, int64_t sums_stride, const typename Method::Point* ahead, int64_t step) {
  using Sum = typename Method::Sum;
  constexpr int lanes = Method::lanes, together = Method::together;
  for (int64_t run = 0; run < channels; run += Method::run) {
    Sum sum[Tiles][Vectors] = {};
    const auto step_at = [&](int c) __attribute__((always_inline)) {
      Sum weight[Vectors];
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; j++) weight[j] = Method::weights_at(u + (c * Vectors + j * together) * kFloats);
      __builtin_prefetch(ahead + c * step, 0, 2);
#pragma GCC unroll 14
      for (int t = 0; t < Tiles; t++) {
        const Sum x = Method::input_at(v + t * lanes + c);
#pragma GCC unroll 2
        for (int j = 0; j < Vectors; j++) Method::add(sum[t][j], weight[j], x);
      }
    };
    for (int64_t block = run; block < least(channels, run + Method::run); block += lanes) {
      if constexpr (Method::unrolls) {
#pragma GCC unroll 8
        for (int c = 0; c < lanes; c += together) step_at(c);
      } else {
#pragma GCC unroll 4
        for (int c = 0; c < lanes; c += together) step_at(c);
      }
      v += v_stride;
      u += lanes * Vectors * kFloats;
      ahead += lanes * step;
    }
#pragma GCC unroll 14
    for (int t = 0; t < Tiles; t++) {
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; j++) {
        float* to = sums + j * sums_stride + t * kFloats;
        const Floats found = Method::floats(sum[t][j]);
        store<kFloats>(to, run == 0 && opens ? found : load<kFloats>(to) + found);
      }
    }
  }
}

template <class Method, int Vectors, int Tiles = kGroup>
inline void multiply_some(int64_t tiles, const typename Method::Point* v, int64_t v_stride, const typename Method::Point* u,
                          int64_t channels, bool opens, float* sums, int64_t sums_stride, const typename Method::Point* ahead,
                          int64_t step) {
  if (tiles == Tiles) return multiply_group<Method, Vectors, Tiles>(v, v_stride, u, channels, opens, sums, sums_stride, ahead, step);
  if constexpr (Tiles > 1)
    multiply_some<Method, Vectors, Tiles - 1>(tiles, v, v_stride, u, channels, opens, sums, sums_stride, ahead, step);
}

// One point of a tap, one panel, all tiles of a block.
template <class Method>
void multiply(int64_t tiles, const typename Method::Point* v, const typename Method::Point* u, int64_t channels, int64_t vectors,
              bool opens, float* products, const typename Method::Point* ahead) {
  const int64_t groups = ceil_div(tiles, kGroup), step = vectors * kFloats / groups;
  const int64_t v_stride = tiles * Method::lanes, stride = tiles * kFloats;
  for (int64_t g = 0; g < groups; g++) {
    const Range r = share(tiles, g, groups);
    const auto *from = v + r.begin * Method::lanes, *fetch = ahead + g * step * channels;
    float* to = products + r.begin * kFloats;
    if (vectors == kPanel) {
      multiply_some<Method, kPanel>(r.end - r.begin, from, v_stride, u, channels, opens, to, stride, fetch, step);
    } else {
      multiply_some<Method, 1>(r.end - r.begin, from, v_stride, u, channels, opens, to, stride, fetch, step);
    }
  }
}

// The output channels of some panels, for a block whose inputs are transformed. Of several taps the last one closes the sums, which
// the products keep from tap to tap: the panels are a single chunk then.
template <class Method>
void convolve_panels(const Method& method, int64_t first, int64_t tiles, Range panels, int64_t tap, const typename Method::Point* v,
                     float* products) {
  constexpr int64_t points = (Method::tile + 2) * (Method::tile + 2);
  const WinogradArgs& a = method.args;
  const auto weights = [&](int64_t panel, int64_t tap, int64_t point) {
    return panel_weights<typename Method::Point>(a, panel, tap, point);
  };
  const int64_t all = a.out_channels / kFloats, v_stride = Method::apart(tiles, a.in_channels);
  for (int64_t chunk = panels.begin; chunk < panels.end; chunk += a.chunk_panels) {
    const int64_t end = least(panels.end, chunk + a.chunk_panels), vectors = least(all, end * kPanel) - chunk * kPanel;
    const int64_t stride = tiles * vectors * kFloats + winograd_gap;
    for (int64_t point = 0; point < points; point++) {
      for (int64_t panel = chunk; panel < end; panel++) {
        const auto* ahead = panel + 1 < end      ? weights(panel + 1, tap, point)
                            : point + 1 < points ? weights(chunk, tap, point + 1)
                            : end < panels.end   ? weights(end, tap, 0)
                                                 : weights(panels.begin, (tap + 1) % a.taps, 0);
        multiply<Method>(tiles, v + point * v_stride, weights(panel, tap, point), a.in_channels, panel_width(a, panel), tap == 0,
                         products + point * stride + (panel - chunk) * kPanel * tiles * kFloats, ahead);
      }
    }
    if (tap + 1 == a.taps) method.transform_outputs(first, tiles, chunk * kPanel * kFloats, vectors, products, stride);
  }
}

template <class Method>
void convolve_blocks(const Method& method) {
  const WinogradArgs& a = method.args;
  const int64_t tiles = a.batch * a.out_depth * a.tile_rows * a.tile_columns, vectors = a.in_channels / Method::lanes;
  const int64_t panels = ceil_div(a.out_channels, kPanel * kFloats);
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    auto* inputs = reinterpret_cast<typename Method::Point*>(a.scratch + (a.shared ? 0 : thread * a.inputs_bytes));
    auto* products = reinterpret_cast<float*>(a.scratch + (a.shared ? 1 : threads) * a.inputs_bytes + thread * a.results_bytes);
    const int64_t member = a.shared ? thread : 0, members = a.shared ? threads : 1;
    const Range mine = a.shared ? Range{0, tiles} : share(tiles, thread, threads);
    const int64_t blocks = ceil_div(mine.end - mine.begin, a.block_tiles);
    for (int64_t b = 0; b < blocks; b++) {
      const Range block = share(mine.end - mine.begin, b, blocks);
      const int64_t first = mine.begin + block.begin, count = block.end - block.begin;
      for (int64_t tap = 0; tap < a.taps; tap++) {
        method.transform_inputs(first, count, share(count * vectors, member, members), tap, inputs);
        if (members > 1) {
#pragma omp barrier
        }
        convolve_panels(method, first, count, share(panels, member, members), tap, inputs, products);
        if (members > 1) {
#pragma omp barrier
        }
      }
    }
  }
}

}  // namespace drystone::DRYSTONE_ISA
