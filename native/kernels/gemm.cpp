#include "kernels/gemm.h"

#include <omp.h>

#include "kernels/gemm_dot.h"
#include "kernels/gemm_tile.h"
#include "kernels/instructions.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;
constexpr int kStrip = kTile.vectors * W;  // columns
constexpr int64_t kNear = 4096;            // bytes ahead of a single reading of the weights
constexpr int kTileFloats = kTile.rows * kStrip;

struct Float32 {
  static constexpr int step_bytes = 4;

  template <int Rows, int Vectors>
  __attribute__((always_inline)) static inline void step(const char* x, const char* w, Lanes (&sum)[Rows][Vectors]) {
    Lanes weight[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; j++) weight[j] = load<W>(reinterpret_cast<const float*>(w) + j * W);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
      const float value = *reinterpret_cast<const float*>(x + r * kChunkBytes);
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) sum[r][j] += weight[j] * value;
    }
  }
};

// Weights are pairs of bfloat16, x is float32 already: the even k first, then the odd one.
struct Widened {
  static constexpr int step_bytes = 8;

  template <int Rows, int Vectors>
  __attribute__((always_inline)) static inline void step(const char* x, const char* w, Lanes (&sum)[Rows][Vectors]) {
    using Bits = Vector<uint32_t, W>;
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++) {
      Lanes weight[Vectors];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) {
        const Bits pair = load_raw<W>(reinterpret_cast<const uint32_t*>(w) + j * W);
        weight[j] = (Lanes)(odd ? pair & 0xffff0000 : pair << 16);
      }
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++) {
        const float value = *reinterpret_cast<const float*>(x + r * kChunkBytes + odd * 4);
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; j++) sum[r][j] += weight[j] * value;
      }
    }
  }
};

// How many k a step, and how many a chunk of a packed row.
inline int64_t step_k(const GemmArgs& a) { return a.arithmetic == GemmArithmetic::f32 ? 1 : 2; }
inline int64_t chunk_k(const GemmArgs& a) { return a.arithmetic == GemmArithmetic::bf16_dot ? 32 : 16; }

GemmTileFunction tile_function(const GemmArgs& a, int64_t rows, int64_t vectors) {
  switch (a.arithmetic) {
    case GemmArithmetic::f32: return tile_of<Float32>(rows, vectors);
    case GemmArithmetic::bf16_widened: return tile_of<Widened>(rows, vectors);
    default: return dot_tile(rows, vectors);
  }
}

inline int64_t strip_columns(const GemmArgs& a, int64_t strip) { return least(kStrip, a.n - strip * kStrip); }
inline int64_t strip_vectors(const GemmArgs& a, int64_t strip) { return ceil_div(strip_columns(a, strip), W); }

inline const char* strip_weights(const GemmArgs& a, int64_t strip, int64_t k) {
  const int64_t step = step_k(a), strip_bytes = ceil_div(a.k, step) * kStrip * 4;
  return static_cast<const char*>(a.weights) + strip * strip_bytes + k / step * strip_vectors(a, strip) * kVectorBytes;
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
void pack_rows(const GemmArgs& a, Range rows, Range k, char* to) {
  const int64_t count = rows.end - rows.begin, blocks = ceil_div(count, kTile.rows), depth = k.end - k.begin;
  const int64_t chunks = ceil_div(depth, chunk_k(a));
  for (int64_t b = 0; b < blocks; b++) {
    const Range block = share(count, b, blocks);
    const int64_t stride = (block.end - block.begin) * kChunkBytes;
    for (int64_t r = block.begin; r < block.end; r++, to += kChunkBytes) {
      const int64_t offset = (rows.begin + r) * a.x_stride + k.begin;
      const auto* narrow = static_cast<const uint16_t*>(a.x) + offset;
      switch (a.arithmetic) {
        case GemmArithmetic::f32: pack_row<float>(static_cast<const float*>(a.x) + offset, depth, to, stride); break;
        case GemmArithmetic::bf16_widened: pack_row<float>(narrow, depth, to, stride); break;
        default: pack_row<uint16_t>(narrow, depth, to, stride);
      }
    }
    to += (chunks - 1) * stride;
  }
}

// Epilogue and store of a tile, which lies row by row, `width` floats apart.
struct Finish {
  const GemmArgs& a;
  alignas(64) float operand[kTileFloats] = {};

  void run(float* tile, int64_t width, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    for (int i = 0; i < a.ops; i++) {
      const GemmOp& op = a.op[i];
      if (op.binary) {
        for (int64_t r = 0; r < rows; r++) {
          const void* from = advance(op.operand, (row + r) * op.row_stride + column * op.column_stride, op.bf16);
          load(operand + r * width, from, op.bf16, op.column_stride, columns);
        }
      }
      execute(op.instruction, tile, tile, operand, rows * width);
    }
    for (int64_t r = 0; r < rows; r++)
      store(advance(a.output, (row + r) * a.output_stride + column, a.output_bf16), tile + r * width, a.output_bf16, 1, columns);
  }
};

// What one thread computes.
struct Part {
  Range rows, strips, k;
  char* packed;    // its rows, block of k by block of k
  float* sums;     // of a block, between blocks of k
  float* results;  // split_k > 1: where its sums stay, [row][strip columns], else null
};

void compute(const GemmArgs& a, const Part& part) {
  Finish finish{a};
  alignas(64) float tile[kTileFloats], first[kStrip];
  const int64_t step = step_k(a), element = a.arithmetic == GemmArithmetic::bf16_dot ? 2 : 4;
  const int64_t row_total = part.rows.end - part.rows.begin, strip_total = part.strips.end - part.strips.begin;
  const int64_t row_parts = ceil_div(row_total, a.block_m), strip_parts = ceil_div(strip_total, a.block_strips);
  const int64_t padded_n = ceil_div(a.n, kStrip) * kStrip;
  bool warm = false;

  for (int64_t mp = 0; mp < row_parts; mp++) {
    const Range within = share(row_total, mp, row_parts), rows{part.rows.begin + within.begin, part.rows.begin + within.end};
    const int64_t count = rows.end - rows.begin, blocks = ceil_div(count, kTile.rows);
    for (int64_t np = 0; np < strip_parts; np++) {
      const Range some = share(strip_total, np, strip_parts), strips{part.strips.begin + some.begin, part.strips.begin + some.end};
      const int64_t sums_stride = (strips.end - strips.begin) * kStrip;
      for (int64_t k = part.k.begin; k < part.k.end; k += a.block_k) {
        const Range depth{k, least(part.k.end, k + a.block_k)};
        const int64_t padded = ceil_div(depth.end - depth.begin, chunk_k(a)) * chunk_k(a), steps = ceil_div(depth.end - depth.begin, step);
        char* packed = part.packed + count * (k - part.k.begin) * element;
        if (np == 0) pack_rows(a, rows, depth, packed);
        const bool opens = k == part.k.begin, closes = depth.end == part.k.end;

        for (int64_t strip = strips.begin; strip < strips.end; strip++) {
          const int64_t columns = strip_columns(a, strip), vectors = strip_vectors(a, strip), width = vectors * W;
          if (opens)
            for (int64_t i = 0; i < width; i++) first[i] = a.bias && part.k.begin == 0 && i < columns ? a.bias[strip * kStrip + i] : 0.0f;
          const char* weights = strip_weights(a, strip, k);
          const char* next = strip + 1 < strips.end ? strip_weights(a, strip + 1, k)
                             : !closes              ? strip_weights(a, strips.begin, depth.end)
                             : np + 1 < strip_parts ? strip_weights(a, strips.end, part.k.begin)
                                                    : strip_weights(a, part.strips.begin, part.k.begin);
          const int64_t lines = ceil_div(4 * vectors * kVectorBytes / 64, blocks);
          for (int64_t b = 0; b < blocks; b++) {
            const Range block = share(count, b, blocks);
            const int64_t height = block.end - block.begin, row = rows.begin + block.begin;
            const bool near = blocks == 1 || !warm;
            float* sums = part.sums + block.begin * sums_stride + (strip - strips.begin) * kStrip;
            GemmTile t{};
            t.x = packed + block.begin * padded * element;
            t.weights = weights;
            t.steps = steps;
            t.start = opens ? first : sums;
            t.start_stride = opens ? 0 : sums_stride;
            t.sums = closes ? tile : sums;
            t.sums_stride = closes ? width : sums_stride;
            t.ahead = near ? weights + kNear : next + b * (steps / 4) * lines * 64;
            t.ahead_lines = near ? 4 * vectors * kVectorBytes / 64 : lines;
            warm = true;
            if (closes && part.results) {
              t.sums = part.results + row * padded_n + strip * kStrip;
              t.sums_stride = padded_n;
            }
            tile_function(a, height, vectors)(t);
            if (closes && !part.results) finish.run(tile, width, row, height, strip * kStrip, columns);
          }
        }
      }
    }
  }
}

// The sums that the parts of k left, added up in their order, tile by tile.
void add_up(const GemmArgs& a, const float* results, Range tiles) {
  Finish finish{a};
  alignas(64) float tile[kTileFloats];
  const int64_t strips = ceil_div(a.n, kStrip), padded_n = strips * kStrip, blocks = ceil_div(a.m, kTile.rows);
  for (int64_t i = tiles.begin; i < tiles.end; i++) {
    const int64_t strip = i % strips, width = strip_vectors(a, strip) * W;
    const Range rows = share(a.m, i / strips, blocks);
    for (int64_t r = rows.begin; r < rows.end; r++) {
      for (int64_t c = 0; c < width; c += W) {
        const float* from = results + r * padded_n + strip * kStrip + c;
        Lanes sum = load<W>(from);
        for (int64_t part = 1; part < a.split_k; part++) sum += load<W>(from + part * a.m * padded_n);
        store<W>(tile + (r - rows.begin) * width + c, sum);
      }
    }
    finish.run(tile, width, rows.begin, rows.end - rows.begin, strip * kStrip, strip_columns(a, strip));
  }
}

}  // namespace

void gemm(const GemmArgs& a) {
  const int64_t parts = a.split_m * a.split_n * a.split_k, strips = ceil_div(a.n, kStrip), blocks = ceil_div(a.m, kTile.rows);
  const int64_t chunks = ceil_div(a.k, chunk_k(a));
  float* results = a.split_k > 1 ? reinterpret_cast<float*>(a.scratch + parts * a.part_bytes) : nullptr;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const int64_t team = omp_get_num_threads();
    for (int64_t i = omp_get_thread_num(); i < parts; i += team) {
      std::byte* scratch = a.scratch + i * a.part_bytes;
      const Range rows = share(blocks, i / a.split_n % a.split_m, a.split_m);
      const int64_t k_part = i / a.split_n / a.split_m;
      const Range k = share(chunks, k_part, a.split_k);
      Part part;
      part.rows = {share(a.m, rows.begin, blocks).begin, share(a.m, rows.end - 1, blocks).end};
      part.strips = share(strips, i % a.split_n, a.split_n);
      part.k = {k.begin * chunk_k(a), least(a.k, k.end * chunk_k(a))};
      part.packed = reinterpret_cast<char*>(scratch);
      part.sums = reinterpret_cast<float*>(scratch + a.rows_bytes);
      part.results = results ? results + k_part * a.m * strips * kStrip : nullptr;
      compute(a, part);
    }
    if (results) {
#pragma omp barrier
      add_up(a, results, share(strips * blocks, omp_get_thread_num(), team));
    }
  }
}

}  // namespace drystone::DRYSTONE_ISA
