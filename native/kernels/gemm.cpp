// x (M, K) times packed weights (N, K) transposed, with bias and epilogue: the linear layers. float32, bfloat16, and codes of 8 bits, whose
// rows may also be floats that are quantised as they are packed, or patches of images.
//
// A register tile is 8 rows times 3 vectors of columns (AVX2: 6 times 2). Weights lie in strips as wide as a tile, in the order in
// which they are consumed: a strip (a block of its k, where K is large) is used for all rows of a block before the next strip is
// touched, so each weight comes from memory once a block of rows; the next strip is fetched into the second level meanwhile, evenly
// spread over the rows. A single row block reads its weights as a stream, fetched some KB ahead. A single row is best without, but
// where weights are widened: these instructions leave fewer loads in flight.
// What a tile summed goes through its epilogue in the first level, and to memory once. How the work is cut: steps/gemm.cpp.
//
// Weights may be codes of 4 or 8 bits (gemm_groups.cpp). A single block of rows decodes them in registers, more have a strip decoded
// before it is used for all of them. Or x is rounded to codes too (gemm_rounded.cpp), for any number of rows.
//
// Another arithmetic is another tile function (gemm_tile.h, gemm_tiles.cpp): the packed rows and weights are in the order of AMX tiles.
//
// Zen 5, one core, weights cold, against oneDNN 3.2's matmul, geometric means over nine layers: float32 1.00 times as fast for 1 row, 1.44
// for 16, 1.10 for 64, 1.04 for 128, 1.01 for 512; bfloat16 1.04, 1.37, 1.11, 1.06, 1.01. From 64 rows on that is 81 to 95 % of the
// machine's arithmetic in float32 and 86 to 99 % in bfloat16, for a single row the rate at which memory is read.
//
// Codes, Zen 4, one core, BERT-base's layers with cold weights, against oneDNN 3.2: 1.08 times as fast for 1 row, 1.15 for 16, 0.91 to 1.03
// for 128. Hot, from 16 rows on, 3.6 times the rate of float32; Zen 3, without VNNI, 2.2 times, of weights of 8 bits 1.4
// times.
#include "kernels/gemm.h"

#include <omp.h>

#include "kernels/claims.h"
#include "kernels/gemm_codes_tile.h"
#include "kernels/gemm_dot.h"
#include "kernels/gemm_groups.h"
#include "kernels/gemm_math.h"
#include "kernels/gemm_rounded.h"
#include "kernels/gemm_rows.h"
#include "kernels/gemm_tile.h"
#include "kernels/gemm_tiles.h"
#include "kernels/instructions.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int W = kFloats;
constexpr int kStrip = kTile.vectors * W;  // columns
constexpr int64_t kNear = 6144;            // bytes ahead, where weights are fetched as they are read
constexpr int64_t kNearOfRow = 1536;       // and where a single row reads them
static_assert(sizeof(Claims::Line) == gemm_claims_bytes);
constexpr int kTileFloats = kTile.rows * kStrip, kAmxTileFloats = kAmxTile.rows * kStrip;

GemmTileFunction tile_function(const GemmArgs& a, int64_t rows, int64_t vectors) {
  switch (a.arithmetic) {
    case GemmArithmetic::f32: return tile_of<Float32>(rows, vectors);
    case GemmArithmetic::bf16_widened: return tile_of<Widened>(rows, vectors);
    case GemmArithmetic::bf16_tiles: return amx_tile(rows, vectors);
    case GemmArithmetic::codes_tiles: return amx_codes_tile(rows, vectors);
    case GemmArithmetic::codes_dot: return codes_dot_tile(rows, vectors);
    case GemmArithmetic::codes_pairs:
    case GemmArithmetic::codes_wide: return codes_tile(a.arithmetic, rows, vectors);
    default: return dot_tile(rows, vectors);
  }
}

inline int64_t strip_columns(const GemmArgs& a, int64_t strip) { return least(kStrip, a.n - strip * kStrip); }
inline int64_t strip_vectors(const GemmArgs& a, int64_t strip) { return ceil_div(strip_columns(a, strip), W); }

// Where a strip's weights from k on lie; codes: its first group.
inline const char* strip_weights(const GemmArgs& a, int64_t strip, int64_t k) {
  if (a.groups.bits) return static_cast<const char*>(a.weights) + strip * kStrip * ceil_div(a.k, a.groups.group) * a.groups.column_bytes();
  const int64_t step = step_k(a), strip_bytes = ceil_div(a.k, step) * kStrip * 4;
  return static_cast<const char*>(a.weights) + strip * strip_bytes + k / step * strip_vectors(a, strip) * kVectorBytes;
}

// Where the weights from k on begin that are read next.
inline const char* weights_from(const GemmArgs& a, int64_t strip, int64_t k) {
  const char* weights = strip_weights(a, strip, k);
  return a.groups.bits ? weights + k / a.groups.group * strip_vectors(a, strip) * W * a.groups.column_bytes() : weights;
}

// How many strips a thread claims at once: enough for a stream of memory to get going.
int64_t claimed_strips(const GemmArgs& a) {
  constexpr int64_t stream = 32 << 10;
  const char* first = strip_weights(a, 0, 0);
  return larger(1, stream / (strip_weights(a, 1, 0) - first));
}

Repairs repairs_of(const GemmArgs& a, int64_t strip, Range k) {
  const uint32_t* starts = a.repairs.starts + strip * (ceil_div(a.k, chunk_k(a)) + 1);
  const uint32_t begin = starts[k.begin / chunk_k(a)], end = starts[ceil_div(k.end, chunk_k(a))];
  return {end - begin, a.repairs.steps + begin, k.begin / step_k(a), a.repairs.weights + static_cast<int64_t>(begin) * kStrip * 4};
}

// The next strip's weights are fetched by the first `blocks` row blocks, in each so many lines in four steps.
struct Ahead {
  int64_t lines, blocks;
};
inline Ahead ahead_of(const GemmArgs& a, int64_t vectors, int64_t steps, int64_t blocks) {
  if (!a.groups.bits) return {ceil_div(4 * vectors * kVectorBytes / 64, blocks), blocks};
  const int64_t lines = ceil_div(steps * step_k(a) * vectors * W * a.groups.column_bytes(), a.groups.group * 64);
  const int64_t each = ceil_div(lines, blocks * larger(steps / 4, 1));
  return {each, ceil_div(lines, each * larger(steps / 4, 1))};
}

// Epilogue and store of a tile, which lies row by row, `width` floats apart.
struct Finish {
  const GemmArgs& a;
  const Codes& codes;
  alignas(64) float operand[kAmxTileFloats];

  Finish(const GemmArgs& args, const Codes& of_rows) : a(args), codes(of_rows) {
    for (int i = 0; i < kTileFloats; i++) operand[i] = 0;
    for (int i = kTileFloats; on_amx(a) && i < kAmxTileFloats; i++) operand[i] = 0;
  }

  // What run() will read and write, while the tile is computed: rows of the output lie too far apart for the hardware to foresee them.
  void fetch(int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    for (int64_t r = row; r < row + rows; r++) {
      fetch_run(advance(a.output, r * a.output_stride + column, a.output_dtype), columns, a.output_dtype);
      for (int i = 0; i < a.ops; i++)
        if (a.op[i].binary && a.op[i].row_stride)
          fetch_run(advance(a.op[i].operand, r * a.op[i].row_stride + column * a.op[i].column_stride, a.op[i].dtype), columns,
                    a.op[i].dtype);
    }
  }

  static void fetch_run(const void* from, int64_t count, DType dtype) {
    for (int64_t byte = 0; byte < count * size_of(dtype); byte += 64) __builtin_prefetch(static_cast<const char*>(from) + byte);
  }

  void run(float* tile, int64_t width, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    if (gemm_on_codes(a.arithmetic) && codes.decode(a, tile, width, row, rows, column, columns)) return;
    for (int i = a.adds ? 1 : 0; i < a.ops; i++) {
      const GemmOp& op = a.op[i];
      if (op.binary) {
        for (int64_t r = 0; r < rows; r++) {
          const void* from = advance(op.operand, (row + r) * op.row_stride + column * op.column_stride, op.dtype);
          load(operand + r * width, from, op.dtype, op.affine, op.column_stride, columns);
        }
      }
      execute(op.instruction, tile, tile, operand, rows * width);
    }
    for (int64_t r = 0; r < rows; r++)
      store(advance(a.output, (row + r) * a.output_stride + column, a.output_dtype), tile + r * width, a.output_dtype, a.output_affine, 1,
            columns);
  }
};

// What one thread computes.
struct Part {
  Range rows, strips, k;
  char* packed;          // its rows, block of k by block of k
  float* sums;           // of a block, between blocks of k
  std::byte* for_codes;  // what products of codes need, or weights that are codes: a strip of a block, decoded
  float* x_sums;         // of its rows, where they are a few, in each group of such weights; in the same memory
  float* results;        // split_k > 1: where its sums stay, [row][strip columns], else null
};

// A part's rows times its strips.
class Product {
 public:
  Product(const GemmArgs& a, const Part& part) : a(a), part(part), codes(a, part.rows, part.for_codes), finish(a, codes) {}
  Product(const Product&) = delete;

  // All of the part, block by block.
  void run() {
    const int64_t row_total = part.rows.end - part.rows.begin, strip_total = part.strips.end - part.strips.begin;
    const int64_t row_parts = ceil_div(row_total, a.block_m), strip_parts = ceil_div(strip_total, a.block_strips);
    for (int64_t mp = 0; mp < row_parts; mp++) {
      const Range within = row_block(a, row_total, mp, row_parts), rows{part.rows.begin + within.begin, part.rows.begin + within.end};
      for (int64_t np = 0; np < strip_parts; np++) {
        const Range some = share(strip_total, np, strip_parts), strips{part.strips.begin + some.begin, part.strips.begin + some.end};
        for (int64_t k = part.k.begin; k < part.k.end; k += a.block_k) {
          const Range depth{k, least(part.k.end, k + a.block_k)};
          if (np == 0) pack(rows, depth);
          const char* after = depth.end < part.k.end ? weights_from(a, strips.begin, depth.end)
                              : np + 1 < strip_parts ? weights_from(a, strips.end, part.k.begin)
                                                     : weights_from(a, part.strips.begin, part.k.begin);
          multiply(rows, strips, depth, after);
        }
      }
    }
  }

  // All of the part's rows, which are a block, times runs of strips as they are claimed.
  void run(const Claims& claims, int64_t own) {
    Range strips = claims.take(own);
    if (strips.begin < strips.end) pack(part.rows, part.k);
    for (; strips.begin < strips.end; strips = claims.take(own))
      multiply(part.rows, strips, part.k, weights_from(a, least(strips.end, ceil_div(a.n, kStrip) - 1), part.k.begin));
  }

 private:
  const GemmArgs& a;
  const Part& part;
  const Codes codes;
  Finish finish;
  const bool on_codes = gemm_on_codes(a.arithmetic), coded = a.groups.bits > 0, rounds = gemm_rounds_x(a.arithmetic);
  bool warm = false;                     // whether a strip was read, and so the next one fetched
  bool scaled = false;                   // whether packed rows are for multiply_scaled()
  alignas(64) float first[kStrip] = {};  // what sums of a strip begin with
  alignas(64) float tile[kAmxTileFloats];

  char* packed_rows(Range rows, int64_t k) const {
    return part.packed + (rows.end - rows.begin) * (k - part.k.begin) * gemm_element_bytes(a);
  }
  // As packed: in whole chunks.
  int64_t padded(Range depth) const { return ceil_div(depth.end - depth.begin, chunk_k(a)) * chunk_k(a); }
  // Whether codes of weights are decoded as they are multiplied.
  bool in_registers(int64_t blocks) const { return coded && !rounds && blocks == 1 && gemm_element_bytes(a) == 4; }

  void pack(Range rows, Range depth) {
    const int64_t count = rows.end - rows.begin, blocks = row_blocks(a, count);
    char* packed = packed_rows(rows, depth.begin);
    if (!rounds) pack_rows(a, rows, depth, codes, packed);
    for (int64_t b = 0; rounds && b < blocks; b++) {
      const Range block = row_block(a, count, b, blocks);
      round_rows(a, {rows.begin + block.begin, rows.begin + block.end}, depth,
                 packed + block.begin * padded(depth) * gemm_element_bytes(a));
    }
    scaled = in_registers(blocks) && depth.begin == part.k.begin && depth.end == part.k.end &&
             scale_for_groups(a.groups, packed, count, depth.begin, depth.end, part.x_sums);
  }

  void begin_sums(int64_t strip, int64_t columns, int64_t width) {
    if (part.k.begin > 0 || !(on_codes || a.bias)) return;
    const int64_t column = strip * kStrip;
    if (on_codes)
      for (int64_t i = 0; i < width; i++) first[i] = codes.start(a, column + i);
    else
      for (int64_t i = 0; i < width; i++) first[i] = i < columns ? a.bias[column + i] : 0.0f;
  }

  // `after`: the weights that are read after these.
  void multiply(Range rows, Range strips, Range depth, const char* after) {
    const int64_t count = rows.end - rows.begin, blocks = row_blocks(a, count), steps = ceil_div(depth.end - depth.begin, step_k(a));
    const int64_t row_bytes = padded(depth) * gemm_element_bytes(a);
    char* const packed = packed_rows(rows, depth.begin);
    const bool opens = depth.begin == part.k.begin, closes = depth.end == part.k.end, decodes = in_registers(blocks);
    const bool fetches = !rounds && !decodes;  // the tile, what is ahead
    const bool repaired = a.repairs.starts;

    for (int64_t strip = strips.begin; strip < strips.end; strip++) {
      const int64_t columns = strip_columns(a, strip), vectors = strip_vectors(a, strip), width = vectors * W;
      if (opens) begin_sums(strip, columns, width);
      const char* weights = strip_weights(a, strip, depth.begin);
      Repairs repairs;
      if (repaired) repairs = repairs_of(a, strip, depth);
      const char* next = !fetches ? nullptr : strip + 1 < strips.end ? weights_from(a, strip + 1, depth.begin) : after;
      const Ahead ahead = fetches ? ahead_of(a, vectors, steps, blocks) : Ahead{};
      if (coded && fetches) {
        decode_strip(a.groups, a.arithmetic, weights, vectors, depth.begin, depth.end, reinterpret_cast<char*>(part.for_codes));
        weights = reinterpret_cast<const char*>(part.for_codes);
      }
      for (int64_t b = 0; b < blocks; b++) {
        const Range block = row_block(a, count, b, blocks);
        const int64_t height = block.end - block.begin, row = rows.begin + block.begin;
        const bool near = !coded && (blocks == 1 || !warm);
        float* sums = part.sums + ((strip - strips.begin) * count + block.begin) * kStrip;
        GemmTile t{};
        t.rows = height;
        t.x = packed + block.begin * row_bytes;
        t.weights = weights;
        t.steps = steps;
        if (repaired) t.repairs = repairs;
        t.start = opens ? first : sums;
        t.start_stride = opens ? 0 : width;
        t.sums = closes ? tile : sums;
        t.sums_stride = width;
        const bool one_row = height == 1 && !on_amx(a), fetched = !one_row || a.arithmetic == GemmArithmetic::bf16_widened;
        t.ahead = near ? weights + (one_row ? kNearOfRow : kNear) : next + b * (steps / 4) * ahead.lines * 64;
        t.ahead_lines = !near ? (b < ahead.blocks ? ahead.lines : 0) : fetched ? 4 * vectors * kVectorBytes / 64 : 0;
        warm = true;
        if (closes && part.results) {
          const int64_t padded_n = ceil_div(a.n, kStrip) * kStrip;
          t.sums = part.results + row * padded_n + strip * kStrip;
          t.sums_stride = padded_n;
        }
        if (closes && !part.results) finish.fetch(row, height, strip * kStrip, columns);
        if (rounds)
          rounded_tile(a.arithmetic, a.groups, height, vectors)(t, a.groups, depth.begin, depth.end);
        else if (scaled)
          multiply_scaled(t, vectors, a.groups, depth.begin, depth.end, part.x_sums);
        else if (decodes)
          groups_tile(a.groups, height, vectors)(t, a.groups, depth.begin, depth.end);
        else
          tile_function(a, height, vectors)(t);
        if (closes && !part.results) finish.run(tile, width, row, height, strip * kStrip, columns);
      }
    }
  }
};

// The sums that the parts of k left, added up in their order, tile by tile.
template <class Sum>
void add_up(const GemmArgs& a, const float* results, Range tiles) {
  const Codes codes(a, {}, nullptr);
  Finish finish(a, codes);
  alignas(64) float tile[kAmxTileFloats];
  const int64_t strips = ceil_div(a.n, kStrip), padded_n = strips * kStrip, blocks = row_blocks(a, a.m);
  for (int64_t i = tiles.begin; i < tiles.end; i++) {
    const int64_t strip = i % strips, width = strip_vectors(a, strip) * W;
    const Range rows = share(a.m, i / strips, blocks);
    for (int64_t r = rows.begin; r < rows.end; r++) {
      for (int64_t c = 0; c < width; c += W) {
        const float* from = results + r * padded_n + strip * kStrip + c;
        Sum sum = (Sum)load<W>(from);
        for (int64_t part = 1; part < a.split_k; part++) sum += (Sum)load<W>(from + part * a.m * padded_n);
        store<W>(tile + (r - rows.begin) * width + c, (Floats)sum);
      }
    }
    finish.run(tile, width, rows.begin, rows.end - rows.begin, strip * kStrip, strip_columns(a, strip));
  }
}

}  // namespace

void gemm(const GemmArgs& a) {
  const int64_t parts = a.split_m * a.split_n * a.split_k, strips = ceil_div(a.n, kStrip), blocks = row_blocks(a, a.m);
  const int64_t chunks = ceil_div(a.k, chunk_k(a));
  float* results = a.split_k > 1 ? reinterpret_cast<float*>(a.scratch + parts * a.part_bytes) : nullptr;
  // Where each part has all rows as one block, and all of k, its strips are any thread's.
  const bool claimed = a.split_n > 1 && a.split_m * a.split_k == 1 && a.block_m >= a.m && a.block_k >= a.k;
  const Claims claims(reinterpret_cast<Claims::Line*>(a.scratch + parts * a.part_bytes), strips, claimed ? claimed_strips(a) : 0,
                      claimed ? parts : 0);
#pragma omp parallel num_threads(a.threads) if (a.threads > 1)
  {
    const int64_t team = omp_get_num_threads();
    if (on_amx(a)) open_tiles(a.m);
    for (int64_t i = omp_get_thread_num(); i < parts; i += team) {
      std::byte* scratch = a.scratch + i * a.part_bytes;
      const Range rows = share(blocks, i / a.split_n % a.split_m, a.split_m);
      const int64_t k_part = i / a.split_n / a.split_m;
      const Range k = share(chunks, k_part, a.split_k);
      Part part;
      part.rows = {row_block(a, a.m, rows.begin, blocks).begin, row_block(a, a.m, rows.end - 1, blocks).end};
      part.strips = share(strips, i % a.split_n, a.split_n);
      part.k = {k.begin * chunk_k(a), least(a.k, k.end * chunk_k(a))};
      part.packed = reinterpret_cast<char*>(scratch);
      part.sums = reinterpret_cast<float*>(scratch + a.rows_bytes);
      part.for_codes = scratch + a.rows_bytes + a.sums_bytes;
      part.x_sums = reinterpret_cast<float*>(part.for_codes);
      part.results = results ? results + k_part * a.m * strips * kStrip : nullptr;
      Product product(a, part);
      claimed ? product.run(claims, i) : product.run();
    }
    if (on_amx(a)) close_tiles();
    if (results) {
#pragma omp barrier
      const Range tiles = share(strips * blocks, omp_get_thread_num(), team);
      gemm_on_codes(a.arithmetic) ? add_up<Vector<int32_t, W>>(a, results, tiles) : add_up<Floats>(a, results, tiles);
    }
  }
}

}  // namespace drystone::DRYSTONE_ISA
