// The register tile of the GEMM: some rows of x times a strip of packed weights, summed in registers over a block of k.
//
// Rows lie chunk by chunk, 64 bytes of each of them side by side, so that all addresses are constant offsets from two
// pointers. `Math` says what is multiplied at a step: a k, or a pair or four of them; what sums are: float32, or int32 in their place;
// where it has `step_twice`, how two steps are taken at once, after which there may be some to repair; and where it has `unrolls`, that
// a run of steps is unrolled. That takes assembly: GCC would move sums from register to register.
//
// Where another thread has the core's second hyperthread, as on rented machines, a core dispatches half as many instructions, and a tile
// takes as long as they are many: rolled 27 for twelve VFMADD231PS, unrolled 22, and 1.2 times as fast there (Zen 3).
#pragma once

#include "kernels/block.h"
#include "kernels/gemm.h"
#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

// Steps whose x is multiplied once more, by weights that make up for what the others lack.
struct Repairs {
  int64_t count = 0;
  const uint16_t* steps = nullptr;  // from `first` on, which begins a chunk
  int64_t first = 0;
  const char* weights = nullptr;  // in whole strips
};

struct GemmTile {
  int64_t rows;
  const char* x;        // [chunk][row][64 bytes]
  const char* weights;  // [step][vector]
  int64_t steps;
  const float* start;  // what is added to: rows of start_stride floats, 0 for the same row for all
  int64_t start_stride;
  float* sums;
  int64_t sums_stride;
  const char* ahead;    // fetched meanwhile:
  int64_t ahead_lines;  // so many lines in four steps
  Repairs repairs;
};

using GemmTileFunction = void (*)(const GemmTile&);

constexpr int kChunkBytes = 64;
constexpr GemmTileSize kTile = gemm_tile(GemmArithmetic::f32, kFloats);  // in registers, so not AMX's

template <class Math, int Rows, int Vectors>
void multiply_tile(const GemmTile& t) {
  using Sum = typename Math::Sum;
  constexpr int step_bytes = Vectors * kVectorBytes, chunk_steps = kChunkBytes / Math::step_bytes, run = 8;
  // Few rows leave registers for several sums of every second or fourth k: less rounding, and no wait for the one before.
  constexpr int sets = Rows * Vectors * 4 <= kTile.rows * kTile.vectors ? 4 : Rows * Vectors * 2 <= kTile.rows * kTile.vectors ? 2 : 1;
  constexpr bool twice = requires(Sum(&s)[Rows][Vectors]) { Math::template step_twice<Rows, Vectors>(nullptr, nullptr, s); };
  constexpr bool unrolls = requires { requires Math::unrolls; };
  constexpr int together = twice && sets <= run / 2 ? 2 : 1;
  Sum sums[sets][Rows][Vectors] = {};
  Sum(&sum)[Rows][Vectors] = sums[0];
  const char *x = t.x, *w = t.weights, *ahead = t.ahead;
  const auto steps_at = [&](int i, int set) __attribute__((always_inline)) {
    if constexpr (together == 2)
      Math::template step_twice<Rows, Vectors>(x + i * Math::step_bytes, w + i * step_bytes, sums[set]);
    else
      Math::template step<Rows, Vectors>(x + i * Math::step_bytes, w + i * step_bytes, sums[set]);
  };
  const int64_t lines = t.ahead_lines * run / 4;
  int64_t left = t.steps;
  for (; left >= chunk_steps; left -= chunk_steps) {
    for (int at = 0; at < chunk_steps; at += run) {
      for (int64_t line = 0; line < lines; line++) __builtin_prefetch(ahead + line * 64, 0, 2);
      ahead += lines * 64;
      if constexpr (unrolls) {
#pragma GCC unroll 8
        for (int i = 0; i < run; i += together) steps_at(i, i / together % sets);
      } else {
#pragma GCC unroll 1
        for (int i = 0; i < run; i += sets * together) {
#pragma GCC unroll 4
          for (int set = 0; set < sets; set++) steps_at(i + set * together, set);
        }
      }
      x += run * Math::step_bytes;
      w += run * step_bytes;
    }
    x += (Rows - 1) * kChunkBytes;
  }
  for (; left > 0; left--) {
    Math::template step<Rows, Vectors>(x, w, sum);
    x += Math::step_bytes;
    w += step_bytes;
  }
  if constexpr (twice)
    for (int64_t i = 0; i < t.repairs.count; i++) {
      const int64_t at = t.repairs.steps[i] - t.repairs.first;
      const char* from = t.x + at / chunk_steps * Rows * kChunkBytes + at % chunk_steps * Math::step_bytes;
      Math::template step<Rows, Vectors>(from, t.repairs.weights + i * kTile.vectors * kVectorBytes, sum);
    }

#pragma GCC unroll 4
  for (int set = 1; set < sets; set++)
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) sum[r][j] += sums[set][r][j];
  // At last: products would lose digits one by one beside a bias that is much larger.
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; j++) {
      const Sum start = (Sum)load<kFloats>(t.start + r * t.start_stride + j * kFloats);
      store<kFloats>(t.sums + r * t.sums_stride + j * kFloats, (Floats)(sum[r][j] + start));
    }
}

template <class Math, int Rows = kTile.rows, int Vectors = kTile.vectors>
GemmTileFunction tile_of(int64_t rows, int64_t vectors) {
  if constexpr (Rows > 1)
    if (rows < Rows) return tile_of<Math, Rows - 1, Vectors>(rows, vectors);
  if constexpr (Vectors > 1)
    if (vectors < Vectors) return tile_of<Math, Rows, Vectors - 1>(rows, vectors);
  return multiply_tile<Math, Rows, Vectors>;
}

// Of strips that are `Vectors` wide, whatever kTile says, with as many rows as the registers then hold.
constexpr int rows_beside(int vectors) { return kTile.rows * kTile.vectors / vectors; }

template <class Math, int Vectors, int Rows = rows_beside(Vectors)>
GemmTileFunction tile_of_width(int64_t rows) {
  if constexpr (Rows > 1)
    if (rows < Rows) return tile_of_width<Math, Vectors, Rows - 1>(rows);
  return multiply_tile<Math, Rows, Vectors>;
}

template <class Math>
GemmTileFunction tile_of_width(int64_t rows, int64_t vectors) {
  return vectors == 4 ? tile_of_width<Math, 4>(rows) : vectors == 3 ? tile_of_width<Math, 3>(rows) : tile_of_width<Math, 2>(rows);
}

}  // namespace drystone::DRYSTONE_ISA
