// softmax(scale * Q Kᵀ + mask) V for each head, in one pass over the keys: no matrix of scores in memory.
//
// The softmax is computed as its row goes by (Milakov and Gimelshein, 2018; in tiles: Dao and others, FlashAttention, 2022): each row
// keeps a maximum so far, the sum of exponentials, and the weighted sum of values, and both sums shrink when the maximum grows.
// A thread takes a chunk of rows (the queries of all heads that share keys count as rows alike). For each block of 64 keys it packs
// keys and values into panels, which stay in L1 at a head size of 64, and takes every tile of rows through scores, exponentials and
// the sum of values. The exponentials of a tile are computed between the products of the next one's scores. float32 accumulation and
// softmax; bfloat16 is multiplied in pairs where the CPU can, else widened when packed.
//
// Zen 5, one core, 12 heads of 64: 420 GFLOP/s of 521 in bfloat16 from 512 keys on, 385 at 128, 335 at 64. A tile over a block takes some
// 1260 cycles, of which 1024 are its products and 100 the exponentials' share of the same multipliers.
#include "kernels/attention.h"

#include <omp.h>

#include "kernels/attention_rows.h"
#include "kernels/attention_softmax.h"

namespace drystone::DRYSTONE_ISA {

namespace {

// What the rows of a chunk carry from block to block.
template <class Unit>
struct State {
  Unit* query;  // (rows, depth) packed
  float* output;
  float* weights;  // their sums, kFloats partial ones a row
  float* bases;    // kFloats a tile
  Unit* keys;
  Unit* values;
  int64_t depth, padded, width;  // depth in units, and in whole chunks of them; width rounded up to panels
};

template <class Unit>
State<Unit> lay_out(const AttentionArgs& args, std::byte* scratch) {
  State<Unit> state;
  const int64_t rows = args.chunk + kTileRows;
  state.depth = ceil_div(args.depth, kElements<Unit>);
  state.width = ceil_div(args.width, kPanel) * kPanel;
  auto* next = reinterpret_cast<float*>(scratch);
  const auto take = [&](int64_t floats) {
    float* const start = next;
    next += ceil_div(floats, 16) * 16;
    return start;
  };
  state.keys = reinterpret_cast<Unit*>(take(kKeys * state.depth));
  state.values = reinterpret_cast<Unit*>(take(kKeys * state.width));
  state.padded = ceil_div(state.depth, kChunk) * kChunk;
  state.query = reinterpret_cast<Unit*>(take(rows * state.padded));
  state.output = take(rows * state.width);
  state.weights = take(rows * kFloats);
  state.bases = take(ceil_div(rows, kTileRows) * kFloats);
  return state;
}

// Of the tile whose first row is `first`.
template <class Unit>
Sums sums_of(const State<Unit>& state, int64_t first) {
  return {state.bases + first / kTileRows * kFloats, state.output + first * state.width, state.weights + first * kFloats, state.width};
}

// scores = scale * scores + mask (may be null), the first `seen` of them; the others are hidden.
void finish_scores(float* scores, float scale, const float* mask, int64_t seen) {
  for (int64_t i = 0; i < kKeys; i += kFloats) {
    if (!mask) {
      store_raw(scores + i, load<kFloats>(scores + i) * scale);
      continue;
    }
    // A mask of the lowest finite number hides nothing where all keys have it: it must not become -infinity here.
    const Floats added = load<kFloats>(mask + i), lowest = added == -infinity ? added : all(-__FLT_MAX__);
    store_raw(scores + i, most_or(lowest, fma(load<kFloats>(scores + i), all(scale), added * log2_e)));
  }
  for (int64_t i = seen > 0 ? seen : 0; i < kKeys; i++) scores[i] = -infinity;
}

// A block of `count` keys from `first` on.
struct Block {
  int64_t first, count;
};

// Rows [first, first + valid) of a chunk, on one block, of which they see the first `seen` keys at most. A tile computes more rows than are
// there: kTileRows, half of them, or one.
struct Tile {
  int64_t first, valid;
  Block block;
  int64_t seen;
  bool opens, closes;  // whether the block is their first, and their last
};

template <class T>
const T* query_row(const AttentionArgs& args, int64_t batch, const Row& row) {
  const int64_t* strides = args.query_strides;
  return static_cast<const T*>(args.query) + batch * strides[0] + row.head * strides[1] + row.position * strides[2];
}

// Rows of a head lie too far apart for the hardware to foresee them.
inline void fetch(const void* row, int64_t bytes) {
  for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(static_cast<const char*>(row) + byte, 0, 2);
}

// Packs the queries of a tile, and fetches the next ones.
template <class In, class Unit>
void begin(const AttentionArgs& args, const State<Unit>& state, const Rows& rows, const Tile& tile) {
  Unit* const to = state.query + tile.first * state.padded;
  if (tile.valid < kTileRows)
    for (int64_t i = 0; i < kTileRows * state.padded; i++) to[i] = Unit{};
  Row row = row_of(args, rows, tile.first);
  for (int64_t r = 0; r < tile.valid; r++, row = next(args, row))
    pack_row(to + r * kChunk, query_row<In>(args, rows.batch, row), args.depth);
  const int64_t ahead = least(kTileRows, rows.count - tile.first - tile.valid);
  for (int64_t r = 0; r < ahead; r++, row = next(args, row)) fetch(query_row<In>(args, rows.batch, row), args.depth * sizeof(In));
  clear_sums(sums_of(state, tile.first));
}

// Stores rows [first, first + count).
template <class Unit>
void end(const AttentionArgs& args, const Sums& sums, const Rows& rows, int64_t first, int64_t count) {
  const Floats weights = reduce_rows<Sum, kTileRows>(sums.weights, kFloats, kFloats);
  float factors[kFloats];
  store_raw(factors, weights == 0.0f ? all(args.hidden) : 1.0f / weights);
  const int64_t* strides = args.output_strides;
  Row row = row_of(args, rows, first);
  for (int64_t r = 0; r < count; r++, row = next(args, row)) {
    const int64_t offset = rows.batch * strides[0] + row.head * strides[1] + row.position * strides[2];
    store_row<Unit>(advance(args.output, offset, args.dtype), sums.output + r * sums.width, factors[r], args.dtype, args.width);
  }
}

// Finishes the scores of a tile of R rows. Returns by what they are still to be multiplied.
template <int R>
float finish_tile(const AttentionArgs& args, const Rows& rows, const Tile& tile, float* scores) {
  const float scale = args.scale * log2_e;
  const bool plain = !args.mask && tile.seen >= kKeys && scale > 0.0f;
  if (plain && !args.causal) return scale;
  Row row = row_of(args, rows, tile.first);
  if (plain && row.position + R <= args.queries && row.position - tile.block.first + 1 >= kKeys) return scale;
  alignas(64) float buffer[kKeys];
  for (int64_t r = 0; r < R; r++, row = next(args, row)) {
    const float* mask = r < tile.valid ? mask_row(args, rows.batch, row, tile.block.first, tile.block.count, buffer) : nullptr;
    finish_scores(scores + r * kKeys, scale, mask, args.causal ? least(row.position - tile.block.first + 1, tile.seen) : tile.seen);
  }
  return 1.0f;
}

// A tile whose scores are complete.
template <class Unit>
struct Pending {
  Tile tile;
  Weighing<Unit> weighing;
  alignas(64) float scores[kTileRows * kKeys];
};

template <int R, bool Adds, class Unit>
void weighted_values(const AttentionArgs& args, const State<Unit>& state, const Pending<Unit>& pending) {
  const Left<Unit, kKeys / kElements<Unit>, kChunk> weights = {pending.weighing.weights};
  const int64_t depth = ceil_div(pending.tile.seen, kElements<Unit>), panel_depth = ceil_div(pending.tile.block.count, kElements<Unit>);
  for (int64_t j = 0; j < args.width; j += kPanel) {
    float* output = pending.weighing.sums.output + j;
    if (args.width - j > kFloats)
      multiply_tile<R, 2, Adds>(weights, Panel<Unit>{state.values + j * panel_depth}, depth, output, state.width, [] {});
    else
      multiply_tile<R, 1, Adds>(weights, Panel<Unit>{state.values + j * panel_depth}, depth, output, state.width, [] {});
  }
}

// Adds the weighted values of a tile of R rows, and stores the result if they were the last.
template <int R, class Unit>
void complete(const AttentionArgs& args, const State<Unit>& state, const Rows& rows, Pending<Unit>& pending) {
  pending.weighing.rest();
  if (pending.tile.opens)
    weighted_values<R, false>(args, state, pending);
  else
    weighted_values<R, true>(args, state, pending);
  if (pending.tile.closes) end<Unit>(args, pending.weighing.sums, rows, pending.tile.first, pending.tile.valid);
}

// Takes a tile of R rows up to its scores, and completes the one before: it is weighed while the products of this one are summed.
template <int R, class Unit>
void take(const AttentionArgs& args, const State<Unit>& state, const Rows& rows, Pending<Unit>& before, Pending<Unit>& now, Unit* weights) {
  const Tile& tile = now.tile;
  const Left<Unit, kChunk, kTileRows * kChunk> queries = {state.query + tile.first * state.padded};
  for (int64_t j = 0; j < tile.seen; j += kPanel)
    multiply_tile<R, 2, false>(queries, Panel<Unit>{state.keys + j * state.depth}, state.depth, now.scores + j, kKeys,
                               [&] { before.weighing.one(); });
  now.weighing = {now.scores, weights, finish_tile<R>(args, rows, tile, now.scores), sums_of(state, tile.first), R};
  raise<R>(now.weighing.sums, now.scores, now.weighing.scale, tile.opens);
  if (before.weighing.rows) complete<kTileRows>(args, state, rows, before);
}

// The next block's keys and values, fetched while the tiles of this one are computed, evenly spread over them.
template <class In>
struct Ahead {
  const In *keys, *values;
  int64_t count, tiles, done = 0;

  void fetch_some(const AttentionArgs& args) {
    for (const int64_t end = least(count, done + ceil_div(count, tiles)); done < end; done++) {
      fetch(keys + done * args.key_strides[2], args.depth * sizeof(In));
      fetch(values + done * args.value_strides[2], args.width * sizeof(In));
    }
  }
};

// Takes the rows over one block, tile by tile.
template <class In, class Unit>
void take_block(const AttentionArgs& args, const State<Unit>& state, const Rows& rows, const Block& block, Ahead<In> ahead) {
  alignas(64) Unit weights[kTileRows * kKeys / kElements<Unit>];
  Pending<Unit> pending[2];
  Pending<Unit>*before = &pending[0], *now = &pending[1];
  before->weighing.rows = 0;
  for (int64_t first = 0; first < rows.count; first += kTileRows) {
    const int64_t valid = least(kTileRows, rows.count - first);
    const int64_t last = args.causal ? least(args.keys - 1, last_key(args, rows, first, valid)) : args.keys - 1;
    if (last < block.first && block.first > 0) continue;
    const int64_t seen = least(block.count, last - block.first + 1);
    now->tile = {first, valid, block, seen, block.first == 0, last < block.first + kKeys};
    if (block.first == 0) begin<In>(args, state, rows, now->tile);
    ahead.fetch_some(args);
    if (valid == 1)
      take<1>(args, state, rows, *before, *now, weights);
    else if (valid <= kTileRows / 2)
      take<kTileRows / 2>(args, state, rows, *before, *now, weights);
    else
      take<kTileRows>(args, state, rows, *before, *now, weights);
    Pending<Unit>* const done = before;
    before = now, now = done;
  }
  if (before->weighing.rows == 1)
    complete<1>(args, state, rows, *before);
  else if (before->weighing.rows == kTileRows / 2)
    complete<kTileRows / 2>(args, state, rows, *before);
  else if (before->weighing.rows)
    complete<kTileRows>(args, state, rows, *before);
}

// A chunk of one row, on keys and values where they lie.
void single(const AttentionArgs& args, const State<float>& state, const Rows& rows, const float* keys, const float* values) {
  alignas(64) float scores[kKeys], buffer[kKeys];
  const Row row = row_of(args, rows, 0);
  const int64_t seen = args.causal ? least(row.position + 1, args.keys) : args.keys;
  const Sums sums = sums_of(state, 0);
  const float scale = args.scale * log2_e;
  clear_sums(sums);
  for (int64_t j = 0; j < state.width; j++) sums.output[j] = 0.0f;
  for (int64_t key = 0; key < seen; key += kKeys) {
    const int64_t count = least(kKeys, seen - key);
    multiply_keys(scores, query_row<float>(args, rows.batch, row), keys + key * args.key_strides[2], args.key_strides[2], count,
                  args.depth);
    const float* mask = mask_row(args, rows.batch, row, key, count, buffer);
    const bool plain = !mask && count == kKeys && scale > 0.0f;
    if (!plain) finish_scores(scores, scale, mask, count);
    raise<1>(sums, scores, plain ? scale : 1.0f, key == 0);
    Weighing<float>{scores, scores, plain ? scale : 1.0f, sums, 1}.rest();
    add_values(sums.output, scores, values + key * args.value_strides[2], args.value_strides[2], count, args.width);
  }
  end<float>(args, sums, rows, 0, 1);
}

template <class In, class Unit>
void chunk(const AttentionArgs& args, std::byte* scratch, const Rows& rows) {
  const State<Unit> state = lay_out<Unit>(args, scratch);
  const In* keys = static_cast<const In*>(args.key) + rows.batch * args.key_strides[0] + rows.key_head * args.key_strides[1];
  const In* values = static_cast<const In*>(args.value) + rows.batch * args.value_strides[0] + rows.key_head * args.value_strides[1];
  if constexpr (sizeof(In) == sizeof(float))
    if (rows.count == 1) return single(args, state, rows, keys, values);
  const int64_t last = args.causal ? last_key(args, rows, 0, rows.count) : args.keys - 1;
  Block block = {0, least(kKeys, args.keys)};
  do {  // once at least: no keys give rows of which all are hidden
    const In *key = keys + block.first * args.key_strides[2], *value = values + block.first * args.value_strides[2];
    pack_keys(state.keys, key, args.key_strides[2], block.count, args.depth);
    pack_values(state.values, value, args.value_strides[2], block.count, args.width);
    const int64_t next = block.first + kKeys, left = next <= last ? least(kKeys, args.keys - next) : 0;
    take_block(args, state, rows, block,
               Ahead<In>{key + kKeys * args.key_strides[2], value + kKeys * args.value_strides[2], left, ceil_div(rows.count, kTileRows)});
    block = {next, left};
  } while (block.count > 0);
}

}  // namespace

void attention(const AttentionArgs& given) {
  AttentionArgs args = given;
  if (mask_is_idle(args)) args.mask = nullptr;
  const int64_t rows = args.heads / args.key_heads * args.queries, chunks = ceil_div(rows, args.chunk);
#pragma omp parallel for num_threads(args.threads) schedule(dynamic) if (args.threads > 1)
  for (int64_t item = 0; item < args.batch * args.key_heads * chunks; item++) {
    const int64_t head = item / chunks, first = item % chunks * args.chunk;
    const Rows part = {head / args.key_heads, head % args.key_heads, first, least(args.chunk, rows - first)};
    std::byte* scratch = args.scratch + omp_get_thread_num() * args.scratch_bytes;
    if (args.dtype == DType::f32) chunk<float, float>(args, scratch, part);
#ifdef __AVX512F__
    else if (args.pairs)
      chunk<uint16_t, uint32_t>(args, scratch, part);
#endif
    else
      chunk<uint16_t, float>(args, scratch, part);
  }
}

}  // namespace drystone::DRYSTONE_ISA
