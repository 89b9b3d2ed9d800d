// softmax(scale * Q Kᵀ) V over the pages of a cache, into which the keys and values of new positions are written first.
//
// A row is a query of one of the heads that share keys; so many rows as a chunk holds go together over the pages that they see, and read
// each once. Keys lie in a page as products want them, features first, so that a vector holds the scores of neighbouring positions; values
// as they came. Nothing is packed but the queries. Scores become weights as in attention.cpp (attention_softmax.h). The work is the pages
// of all chunks in order, cut into equal parts: a chunk that is cut leaves its sums behind, and they are put together at the end. float32
// accumulation and softmax. Pages of bfloat16 are multiplied in pairs where the queries are bfloat16 too and the CPU can, else widened in
// registers; those of int8 are widened in registers, or once into scratch memory where several tiles of rows read them.
#include "kernels/cached_attention.h"

#include <omp.h>

#include "kernels/attention.h"
#include "kernels/attention_softmax.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t kPage = attention_keys;

// -- the pages

// One head of a page.
struct Head {
  std::byte* data;
  const PageOffsets* offsets;

  template <class T>
  T* keys() const {
    return reinterpret_cast<T*>(data);
  }
  template <class T>
  T* values() const {
    return reinterpret_cast<T*>(data + offsets->values);
  }
  float* key_scales() const { return reinterpret_cast<float*>(data + offsets->scales); }
  float* value_scales() const { return key_scales() + kPage; }
};

Head head_of(const CachedAttentionArgs& args, int64_t batch, int64_t head, int64_t page) {
  return {reinterpret_cast<std::byte*>(args.pages[batch * args.capacity + page]) + head * args.offsets.head, &args.offsets};
}

// `size` elements as float32, in `buffer` unless they are that already.
const float* as_floats(float* buffer, const void* from, DType dtype, int64_t size) {
  if (dtype == DType::f32) return static_cast<const float*>(from);
  load(buffer, from, dtype, 1, size);
  return buffer;
}

// The row of an operand for a position of a head, as float32.
const float* row_at(float* buffer, const CachedAttentionArgs& args, const void* data, const int64_t* strides, int64_t batch, int64_t head,
                    int64_t position, int64_t size) {
  return as_floats(buffer, advance(data, batch * strides[0] + head * strides[1] + position * strides[2], args.dtype), args.dtype, size);
}

// A query or key turned by its position's cosines and sines, if there are any, in `buffer`, of four times the depth.
const float* turned(float* buffer, const CachedAttentionArgs& args, const float* row, int64_t batch, int64_t position) {
  if (!args.cosines) return row;
  const auto factors = [&](float* to, const void* data, const int64_t* strides, DType dtype) {
    return as_floats(to, advance(data, batch * strides[0] + position * strides[1], dtype), dtype, args.depth);
  };
  const float* cosines = factors(buffer + args.depth, args.cosines, args.cosines_strides, args.cosines_dtype);
  const float* sines = factors(buffer + 2 * args.depth, args.sines, args.sines_strides, args.sines_dtype);
  const int64_t half = args.depth / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; i++) {
    buffer[i] = row[i] * cosines[i] - row[half + i] * sines[i];
    buffer[half + i] = row[half + i] * cosines[half + i] + row[i] * sines[half + i];
  }
  return buffer;
}

// The scale of a row in int8: its largest magnitude is 127.
float scale_of(const float* row, int64_t size) {
  float most = 0.0f;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < size; i++) most = absolute(row[i]) > most ? absolute(row[i]) : most;
  return most / 127.0f;
}

inline int8_t quantised(float x, float scale) { return static_cast<int8_t>(__builtin_rintf(scale == 0.0f ? 0.0f : x / scale)); }

void write_position(const CachedAttentionArgs& args, const Head& head, int64_t place, const float* key, const float* value) {
  if (args.page_dtype == DType::f32) {
    float* keys = head.keys<float>() + place;
    for (int64_t d = 0; d < args.depth; d++) keys[d * kPage] = key[d];
    store(head.values<float>() + place * args.width, value, DType::f32, 1, args.width);
  } else if (args.page_dtype == DType::bf16) {
    uint32_t* keys = head.keys<uint32_t>() + place;
    for (int64_t d = 0; d < args.depth; d += 2)
      keys[d / 2 * kPage] = to_bf16(key[d]) | (d + 1 < args.depth ? static_cast<uint32_t>(to_bf16(key[d + 1])) << 16 : 0);
    uint16_t* values = head.values<uint16_t>() + place / 2 * 2 * args.width;
    store(values + place % 2, value, DType::bf16, 2, args.width);
    for (int64_t j = 0; j < args.width && place % 2 == 0; j++) values[2 * j + 1] = 0;  // of a pair, which is multiplied whole
  } else {
    const float key_scale = scale_of(key, args.depth), value_scale = scale_of(value, args.width);
    int8_t *keys = head.keys<int8_t>() + place, *values = head.values<int8_t>() + place * args.width;
    for (int64_t d = 0; d < args.depth; d++) keys[d * kPage] = quantised(key[d], key_scale);
    for (int64_t j = 0; j < args.width; j++) values[j] = quantised(value[j], value_scale);
    head.key_scales()[place] = key_scale, head.value_scales()[place] = value_scale;
  }
}

// The new positions of a head that lie in the pages [begin, end).
void write(const CachedAttentionArgs& args, float* buffer, int64_t batch, int64_t head, int64_t begin, int64_t end) {
  const int64_t length = args.lengths[batch], last = least(args.queries, end * kPage - length);
  for (int64_t t = larger(0, begin * kPage - length); t < last; t++) {
    const int64_t position = length + t;
    const float* value = row_at(buffer, args, args.value, args.value_strides, batch, head, t, args.width);
    const float* key = row_at(buffer + args.width, args, args.key, args.key_strides, batch, head, t, args.depth);
    key = turned(buffer + args.width + args.depth, args, key, batch, t);
    write_position(args, head_of(args, batch, head, position / kPage), position % kPage, key, value);
  }
}

// -- products of a tile (attention_tiles.h) with a page

// Rows of vectors, `step` elements apart.
template <class T>
struct Lines {
  const T* data;
  int64_t step;
  inline const T* at(int64_t d, int j) const { return data + d * step + j * kFloats; }
};

// Rows of pairs of bfloat16, to be multiplied by float32.
struct Pairs {
  const uint32_t* data;
  int64_t step;
};

// Memory that is wanted next, fetched into L2 while products are computed: from page to page the hardware does not foresee it.
struct Ahead {
  const std::byte* next;
  const std::byte* end;
  int64_t step;  // bytes at once

  inline void fetch_some() {
    for (const std::byte* stop = next + step; next < stop && next < end; next += 64) __builtin_prefetch(next, 0, 2);
  }
};

// c (R rows, C vectors of columns) += a (R, depth) b, or that alone.
template <int R, int C, bool Adds, class A, class T>
inline void multiply(A a, Lines<T> b, int64_t depth, float* c, int64_t c_stride, Ahead& ahead) {
  multiply_tile<R, C, Adds>(a, b, depth, c, c_stride, [&] { ahead.fetch_some(); });
}

template <int R, int C, bool Adds, int RowStep, int ChunkStep>
inline void multiply(Left<float, RowStep, ChunkStep> a, Pairs b, int64_t depth, float* c, int64_t c_stride, Ahead& ahead) {
  Floats sums[R][C] = {};
  if constexpr (Adds) load_tile<R, C>(sums, c, c_stride);
  for (int64_t d = 0; d < depth;) {
    const float* left = a.from(d);
    for (const int64_t end = least(depth, d + kRun); d < end; d += 2, left += 2) {
      const uint32_t* pairs = b.data + d / 2 * b.step;
      Floats columns[C];
#pragma GCC unroll 8
      for (int j = 0; j < C; j++) columns[j] = (Floats)(load_raw<kFloats>(pairs + j * kFloats) << 16);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int j = 0; j < C; j++) sums[r][j] += left[r * RowStep] * columns[j];
      if (d + 1 == depth) continue;
#pragma GCC unroll 8
      for (int j = 0; j < C; j++) columns[j] = (Floats)(load_raw<kFloats>(pairs + j * kFloats) & 0xffff0000u);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int j = 0; j < C; j++) sums[r][j] += left[1 + r * RowStep] * columns[j];
    }
    ahead.fetch_some();
  }
  store_tile<R, C>(sums, c, c_stride);
}

// Vectors of columns of a tile of R rows, whose accumulators fill half of the registers at most (or all that is used of them elsewhere).
template <int R>
constexpr int kColumns = 4 * R <= (kFloats == 16 ? 16 : 8) ? 4 : 2;

// How often the products of such a tile fetch what is ahead.
template <int R>
int64_t fetches(const CachedAttentionArgs& args) {
  constexpr int columns = kColumns<R> * kFloats;
  return kPage / columns * ceil_div(args.depth, kRun) + args.width / columns * (kPage / kRun);
}

// -- chunks of rows

// Rows [first, first + count) of those that share a head's keys, the queries of a position next to each other, over the pages
// [begin, end) that any of them sees.
struct Chunk {
  int64_t batch, key_head, first, count, begin, end;
};

int64_t group_of(const CachedAttentionArgs& args) { return args.heads / args.key_heads; }

// The last position that a row sees.
int64_t last_of(const CachedAttentionArgs& args, int64_t batch, int64_t row) {
  if (args.causal) return args.lengths[batch] + row / group_of(args);
  return args.lengths[batch] + (args.grows ? args.queries : 0) - 1;
}
// The first one.
int64_t first_of(const CachedAttentionArgs& args, int64_t last) { return args.window ? larger(0, last - args.window + 1) : 0; }

Chunk chunk_at(const CachedAttentionArgs& args, int64_t batch, int64_t key_head, int64_t first) {
  const int64_t count = least(args.chunk, group_of(args) * args.queries - first);
  const int64_t begin = first_of(args, last_of(args, batch, first)) / kPage;
  return {batch, key_head, first, count, begin, (last_of(args, batch, first + count - 1) + kPage) / kPage};
}

// The work that a chunk is, in pages.
int64_t pages_of(const Chunk& chunk) { return larger(1, chunk.end - chunk.begin); }

// f(chunk) for each, in the order in which they are divided into parts.
template <class F>
void each_chunk(const CachedAttentionArgs& args, F f) {
  const int64_t rows = group_of(args) * args.queries;
  for (int64_t batch = 0; batch < args.batch; batch++)
    for (int64_t head = 0; head < args.key_heads; head++)
      for (int64_t first = 0; first < rows; first += args.chunk) f(chunk_at(args, batch, head, first));
}

// What the rows of a chunk carry from page to page, and memory for int8 that was widened.
template <class Unit>
struct State {
  float *keys, *values;
  Unit* query;
  float* output;
  float* weights;                // their sums, kFloats partial ones a row
  float* bases;                  // kFloats a tile
  int64_t depth, padded, width;  // depth in units, and in whole chunks of them; width in whole vectors
};

template <class Unit>
State<Unit> lay_out(const CachedAttentionArgs& args, std::byte* scratch) {
  State<Unit> state;
  const int64_t rows = args.chunk + kTileRows;
  state.depth = ceil_div(args.depth, kElements<Unit>);
  state.padded = ceil_div(state.depth, kChunk) * kChunk;
  state.width = ceil_div(args.width, kFloats) * kFloats;
  auto* next = reinterpret_cast<float*>(scratch);
  const auto take = [&](int64_t floats) {
    float* const start = next;
    next += ceil_div(floats, 16) * 16;
    return start;
  };
  state.keys = take(kPage * args.depth);
  state.values = take(kPage * args.width + kFloats);
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

// A query.
struct Place {
  int64_t head, position;
};
Place place_of(const CachedAttentionArgs& args, const Chunk& chunk, int64_t index) {
  const int64_t row = chunk.first + index, group = group_of(args);
  return {chunk.key_head * group + row % group, row / group};
}

template <class In, class Unit>
void begin(const CachedAttentionArgs& args, const State<Unit>& state, const Chunk& chunk) {
  const int64_t tiles = ceil_div(chunk.count, kTileRows), *strides = args.query_strides;
  for (int64_t i = 0; i < tiles * kTileRows * state.padded; i++) state.query[i] = Unit{};
  for (int64_t i = 0; i < tiles * kTileRows * state.width; i++) state.output[i] = 0.0f;
  for (int64_t tile = 0; tile < tiles; tile++) clear_sums(sums_of(state, tile * kTileRows));
  float* const buffer = state.keys;  // which nothing else is in yet
  for (int64_t i = 0; i < chunk.count; i++) {
    const Place row = place_of(args, chunk, i);
    Unit* const to = state.query + i / kTileRows * kTileRows * state.padded + i % kTileRows * kChunk;
    if (!args.cosines) {
      const In* query = static_cast<const In*>(args.query) + chunk.batch * strides[0] + row.head * strides[1] + row.position * strides[2];
      pack_row(to, query, args.depth);
      continue;
    }
    const float* query = row_at(buffer, args, args.query, strides, chunk.batch, row.head, row.position, args.depth);
    query = turned(buffer + args.depth, args, query, chunk.batch, row.position);
    if constexpr (kElements<Unit> == 2) {
      auto* const rounded = reinterpret_cast<uint16_t*>(buffer);
      store(rounded, query, DType::bf16, 1, args.depth);
      pack_row(to, rounded, args.depth);
    } else {
      pack_row(to, query, args.depth);
    }
  }
}

// A page, where a tile is multiplied with it: as it lies, or widened.
template <class K, class V>
struct Operands {
  K keys;
  V values;
  const float *key_scales, *value_scales;  // null but for int8
};

// Rows [first, first + valid) of a chunk, which see the positions of a page before `seen`, all of them where `all`.
struct Tile {
  int64_t first, valid, start, seen;  // start: the page's first position
  bool all;
};

// Adds its head's bias, in units of log2, to a row's scores of the positions from `start` on that it sees.
void add_bias(const CachedAttentionArgs& args, int64_t head, int64_t start, int64_t last, float* row) {
  const float* bias = args.bias + head * args.bias_size;
  const int64_t size = args.bias_size, shift = args.by_distance ? size - 1 - last : 0;  // from a position to its column
  const int64_t seen = least(kPage, last + 1 - start);
  const int64_t inside = least(seen, larger(0, -shift - start)), beyond = larger(inside, least(seen, size - shift - start));
  const float* columns = bias + start + shift;
#pragma omp simd
  for (int64_t i = 0; i < inside; i++) row[i] += bias[0] * log2_e;
#pragma omp simd
  for (int64_t i = inside; i < beyond; i++) row[i] += columns[i] * log2_e;
#pragma omp simd
  for (int64_t i = beyond; i < seen; i++) row[i] += bias[size - 1] * log2_e;
}

// Finishes the scores of a tile of R rows. Returns by what they are still to be multiplied.
template <int R>
float finish(const CachedAttentionArgs& args, const Chunk& chunk, const Tile& tile, const float* key_scales, float* scores) {
  const float scale = args.scale * log2_e;
  if (tile.all && !args.softcap && !key_scales && !args.bias && scale > 0.0f) return scale;
  const float inner = args.softcap ? args.scale / args.softcap : scale, outer = args.softcap * log2_e;
  for (int64_t r = 0; r < R; r++) {
    float* row = scores + r * kPage;
    for (int64_t i = 0; i < kPage; i += kFloats) {
      Floats score = load<kFloats>(row + i) * inner;
      if (key_scales) score *= load<kFloats>(key_scales + i);
      if (args.softcap) score = tanh(score) * outer;
      store_raw(row + i, score);
    }
    const int64_t index = tile.first + least(r, tile.valid - 1), last = last_of(args, chunk.batch, chunk.first + index);
    if (args.bias) add_bias(args, place_of(args, chunk, index).head, tile.start, last, row);
    for (int64_t i = larger(0, last + 1 - tile.start); i < kPage; i++) row[i] = -infinity;
    for (int64_t i = least(kPage, first_of(args, last) - tile.start) - 1; i >= 0; i--) row[i] = -infinity;
  }
  return 1.0f;
}

template <int R, class Unit, class K, class V>
void take(const CachedAttentionArgs& args, const State<Unit>& state, const Chunk& chunk, const Tile& tile, const Operands<K, V>& page,
          Ahead& ahead) {
  alignas(64) float scores[R * kPage];
  alignas(64) Unit pairs[kElements<Unit> == 2 ? R * kPage / 2 : 1];
  constexpr int C = kColumns<R>;
  const Left<Unit, kChunk, kTileRows * kChunk> queries = {state.query + tile.first * state.padded};
  const int64_t depth = kElements<Unit> == 2 ? state.depth : args.depth;
  for (int64_t j = 0; j < tile.seen; j += C * kFloats)
    multiply<R, C, false>(queries, K{page.keys.data + j, page.keys.step}, depth, scores + j, kPage, ahead);
  const Sums sums = sums_of(state, tile.first);
  const float scale = finish<R>(args, chunk, tile, page.key_scales, scores);
  raise<R>(sums, scores, scale, false);
  Unit* weights = pairs;
  if constexpr (kElements<Unit> == 1) weights = scores;
  for (int64_t r = 0; r < R; r++) {
    float* sum = sums.weights + r * kFloats;
    store_raw(sum, load<kFloats>(sum) + weigh(weights + r * kPage / kElements<Unit>, scores + r * kPage, scale, sums.bases[r]));
    if constexpr (kElements<Unit> == 1)
      for (int64_t i = 0; page.value_scales && i < kPage; i += kFloats)
        store_raw(scores + r * kPage + i, load<kFloats>(scores + r * kPage + i) * load<kFloats>(page.value_scales + i));
  }
  const Left<Unit, kPage / kElements<Unit>, kChunk> left = {weights};
  int64_t j = 0;
  for (; j + C * kFloats <= state.width; j += C * kFloats)
    multiply<R, C, true>(left, V{page.values.data + j, page.values.step}, ceil_div(tile.seen, kElements<Unit>), sums.output + j,
                         state.width, ahead);
  for (; j < state.width; j += kFloats)
    multiply<R, 1, true>(left, V{page.values.data + j, page.values.step}, ceil_div(tile.seen, kElements<Unit>), sums.output + j,
                         state.width, ahead);
}

// All tiles of a chunk over one page.
template <class Unit, class K, class V>
void take_page(const CachedAttentionArgs& args, const State<Unit>& state, const Chunk& chunk, int64_t number, const Operands<K, V>& page,
               Ahead ahead) {
  const int64_t start = number * kPage;
  for (int64_t first = 0; first < chunk.count; first += kTileRows) {
    const int64_t valid = least(kTileRows, chunk.count - first);
    const int64_t least_last = last_of(args, chunk.batch, chunk.first + first);
    const int64_t last = last_of(args, chunk.batch, chunk.first + first + valid - 1);
    if (last < start || first_of(args, least_last) >= start + kPage) continue;
    const bool all = least_last + 1 >= start + kPage && first_of(args, last) <= start;
    const Tile tile = {first, valid, start, least(kPage, last + 1 - start), all};
    if (valid == 1)
      take<1>(args, state, chunk, tile, page, ahead);
    else if (valid == 2)
      take<2>(args, state, chunk, tile, page, ahead);
    else if (valid <= kTileRows / 2)
      take<kTileRows / 2>(args, state, chunk, tile, page, ahead);
    else
      take<kTileRows>(args, state, chunk, tile, page, ahead);
  }
}

// The page after `number`, in portions for the tiles of that one.
Ahead ahead_of(const CachedAttentionArgs& args, const Chunk& chunk, int64_t number) {
  if (number + 1 >= chunk.end) return {nullptr, nullptr, 0};
  const std::byte* next = head_of(args, chunk.batch, chunk.key_head, number + 1).data;
  const int64_t tiles = ceil_div(chunk.count, kTileRows);
  const int64_t portions = chunk.count == 1 ? fetches<1>(args) : tiles * fetches<kTileRows>(args);
  // The hardware goes on by itself where the memory's rate is all that counts.
  const int64_t bytes = chunk.count <= 2 && args.page_dtype == DType::f32 ? least(args.offsets.head, 1 << 14) : args.offsets.head;
  return {next, next + bytes, ceil_div(bytes, portions * 64) * 64};
}

template <class In, class Unit>
void take_pages(const CachedAttentionArgs& args, const State<Unit>& state, const Chunk& chunk) {
  begin<In>(args, state, chunk);
  for (int64_t number = chunk.begin; number < chunk.end; number++) {
    const Head head = head_of(args, chunk.batch, chunk.key_head, number);
    const Ahead ahead = ahead_of(args, chunk, number);
    if constexpr (kElements<Unit> == 2) {
      const Operands<Lines<uint32_t>, Lines<uint32_t>> page = {
          {head.keys<uint32_t>(), kPage}, {head.values<uint32_t>(), args.width}, nullptr, nullptr};
      take_page(args, state, chunk, number, page, ahead);
    } else if (args.page_dtype == DType::f32) {
      const Operands<Lines<float>, Lines<float>> page = {{head.keys<float>(), kPage}, {head.values<float>(), args.width}, nullptr, nullptr};
      take_page(args, state, chunk, number, page, ahead);
    } else if (args.page_dtype == DType::bf16) {
      const Operands<Pairs, Pairs> page = {{head.keys<uint32_t>(), kPage}, {head.values<uint32_t>(), args.width}, nullptr, nullptr};
      take_page(args, state, chunk, number, page, ahead);
    } else if (chunk.count <= kTileRows) {
      const Operands<Lines<int8_t>, Lines<int8_t>> page = {
          {head.keys<int8_t>(), kPage}, {head.values<int8_t>(), args.width}, head.key_scales(), head.value_scales()};
      take_page(args, state, chunk, number, page, ahead);
    } else {
      for (int64_t i = 0; i < kPage * args.depth; i += kFloats) store_raw(state.keys + i, load_columns(head.keys<int8_t>() + i));
      for (int64_t i = 0; i < kPage * args.width; i += kFloats) store_raw(state.values + i, load_columns(head.values<int8_t>() + i));
      const Operands<Lines<float>, Lines<float>> page = {
          {state.keys, kPage}, {state.values, args.width}, head.key_scales(), head.value_scales()};
      take_page(args, state, chunk, number, page, ahead);
    }
  }
}

// -- results

// What a chunk that was cut has summed over some of its pages: for each row its base, the sum of its weights, and its output.
struct Partial {
  float* data;
  int64_t row_size;
  float* row(int64_t index) const { return data + index * row_size; }
};

Partial partial_at(const CachedAttentionArgs& args, int64_t part, int64_t which) {
  std::byte* const data = args.scratch + args.threads * args.scratch_bytes + (2 * part + which) * args.partial_bytes;
  return {reinterpret_cast<float*>(data), ceil_div(args.width, 16) * 16 + 2};
}

float total_of(const float* weights) {
  float total = 0.0f;
  for (int i = 0; i < kFloats; i++) total += weights[i];
  return total;
}

template <class Unit>
void leave(const CachedAttentionArgs& args, const State<Unit>& state, const Chunk& chunk, const Partial& partial) {
  for (int64_t i = 0; i < chunk.count; i++) {
    float* row = partial.row(i);
    row[0] = state.bases[i / kTileRows * kFloats + i % kTileRows];
    row[1] = total_of(state.weights + i * kFloats);
    for (int64_t j = 0; j < args.width; j++) row[2 + j] = state.output[i * state.width + j];
  }
}

float power_of_two(float x) { return exp2_below(all(x > 127.0f ? 127.0f : x > -149.0f ? x : -149.0f))[0] * (x > -149.0f); }

// Stores a row, given its base and the sum of its weights.
void store_result(const CachedAttentionArgs& args, const Chunk& chunk, int64_t index, float base, float total, float* output) {
  const Place row = place_of(args, chunk, index);
  if (args.sinks) {
    float sink;
    load(&sink, advance(args.sinks, row.head, args.sinks_dtype), args.sinks_dtype, 1, 1);
    total += power_of_two(sink * log2_e - base);
  }
  const int64_t* strides = args.output_strides;
  const int64_t offset = chunk.batch * strides[0] + row.head * strides[1] + row.position * strides[2];
  store_row<float>(advance(args.output, offset, args.dtype), output, total == 0.0f ? 0.0f : 1.0f / total, args.dtype, args.width);
}

template <class Unit>
void end(const CachedAttentionArgs& args, const State<Unit>& state, const Chunk& chunk) {
  for (int64_t i = 0; i < chunk.count; i++)
    store_result(args, chunk, i, state.bases[i / kTileRows * kFloats + i % kTileRows], total_of(state.weights + i * kFloats),
                 state.output + i * state.width);
}

// Puts together what the parts from `part` on have left of a chunk, which begins in that part and ends in part `last`.
void merge(const CachedAttentionArgs& args, const Chunk& chunk, int64_t part, int64_t last) {
  const Partial sums = partial_at(args, part, 1);
  for (int64_t i = 0; i < chunk.count; i++) {
    float *row = sums.row(i), highest = row[0];
    for (int64_t p = part + 1; p <= last; p++) {
      const float base = partial_at(args, p, 0).row(i)[0];
      highest = base > highest ? base : highest;
    }
    const float own = power_of_two(row[0] - highest);
    for (int64_t j = 1; j < 2 + args.width; j++) row[j] *= own;
    for (int64_t p = part + 1; p <= last; p++) {
      const float *other = partial_at(args, p, 0).row(i), factor = power_of_two(other[0] - highest);
      for (int64_t j = 1; j < 2 + args.width; j++) row[j] += other[j] * factor;
    }
    store_result(args, chunk, i, highest, row[1], row + 2);
  }
}

// The chunks of which pages belong to a part, as f(chunk, its pages in the part, its first and its last part).
template <class F>
void each_of_part(const CachedAttentionArgs& args, int64_t total, int64_t part, F f) {
  const Range range = share(total, part, args.parts);
  if (range.begin == range.end) return;
  int64_t at = 0;
  each_chunk(args, [&](const Chunk& chunk) {
    const int64_t from = at, to = at + pages_of(chunk);
    at = to;
    if (to <= range.begin || from >= range.end) return;
    f(chunk, from, to, range);
  });
}

// Whether all new positions are written before any is read. Where a page is one part's alone, that part writes it on its way.
bool writes_first(const CachedAttentionArgs& args) { return args.chunk < group_of(args) * args.queries || !args.causal; }

template <class In, class Unit>
void take_part(const CachedAttentionArgs& args, std::byte* scratch, int64_t total, int64_t part) {
  const State<Unit> state = lay_out<Unit>(args, scratch);
  each_of_part(args, total, part, [&](const Chunk& chunk, int64_t from, int64_t to, const Range& range) {
    Chunk own = chunk;
    own.begin = chunk.begin + larger(0, range.begin - from);
    own.end = least(chunk.end, chunk.begin + range.end - from);
    if (args.key && !writes_first(args)) write(args, state.keys, own.batch, own.key_head, own.begin, own.end);
    take_pages<In>(args, state, own);
    if (from >= range.begin && to <= range.end)
      end(args, state, own);
    else
      leave(args, state, own, partial_at(args, part, from >= range.begin));
  });
}

void merge_part(const CachedAttentionArgs& args, int64_t total, int64_t part) {
  each_of_part(args, total, part, [&](const Chunk& chunk, int64_t from, int64_t to, const Range& range) {
    if (from < range.begin || to <= range.end) return;
    int64_t last = part + 1;
    while (share(total, last, args.parts).end < to) last++;
    merge(args, chunk, part, last);
  });
}

}  // namespace

void cached_attention(const CachedAttentionArgs& args) {
  int64_t total = 0;
  each_chunk(args, [&](const Chunk& chunk) { total += pages_of(chunk); });
#pragma omp parallel num_threads(args.threads) if (args.threads > 1)
  {
    std::byte* const scratch = args.scratch + omp_get_thread_num() * args.scratch_bytes;
    if (args.key && writes_first(args)) {
#pragma omp for schedule(static)
      for (int64_t item = 0; item < args.batch * args.key_heads; item++)
        write(args, reinterpret_cast<float*>(scratch), item / args.key_heads, item % args.key_heads, 0, args.capacity);
    }
#pragma omp for schedule(dynamic)
    for (int64_t part = 0; part < args.parts; part++) {
      if (args.dtype == DType::f32) take_part<float, float>(args, scratch, total, part);
#ifdef __AVX512F__
      else if (args.pairs)
        take_part<uint16_t, uint32_t>(args, scratch, total, part);
#endif
      else
        take_part<uint16_t, float>(args, scratch, total, part);
    }
    if (args.parts > 1) {
#pragma omp for schedule(static)
      for (int64_t part = 0; part < args.parts; part++) merge_part(args, total, part);
    }
  }
}

}  // namespace drystone::DRYSTONE_ISA
