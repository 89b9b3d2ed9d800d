// softmax(scale * Q Kᵀ + mask) V for each head, in one pass over the keys: no matrix of scores in memory.
//
// The softmax is computed as its row goes by (Milakov and Gimelshein, 2018; in tiles: Dao and others, FlashAttention, 2022): each row
// keeps its maximum so far, the sum of exponentials, and the weighted sum of values, and both sums shrink when the maximum grows.
// A thread takes a chunk of rows (the queries of all heads that share keys count as rows alike). For each block of 64 keys it packs
// keys and values into panels, which stay in L1 at a head size of 64, and takes every tile of rows through scores, exponentials and
// the sum of values. float32 accumulation and softmax; bfloat16 is multiplied in pairs where the CPU can, else widened when packed.
#include "kernels/attention.h"

#include <omp.h>

#include "kernels/attention_tiles.h"
#include "kernels/vector_math.h"

namespace drystone::DRYSTONE_ISA {

namespace {

constexpr int64_t kKeys = attention_keys;

// Scores are kept in units of log2, in which e^x is 2^x.
constexpr float log2_e = 1.44269504f;

// 2^x for any x up to 0, -infinity included.
inline Floats power(Floats x) { return exp2_below(most_or(all(-150.0f), x)); }

// What the rows of a chunk carry from block to block.
template <class Unit>
struct State {
  Unit* query;  // (rows, depth) packed
  float* output;
  float* sums;  // kFloats partial ones a row
  float* most;
  Unit* keys;
  Unit* values;
  int64_t depth, width;  // depth in units; width rounded up to panels
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
  state.query = reinterpret_cast<Unit*>(take(rows * state.depth));
  state.output = take(rows * state.width);
  state.sums = take(rows * kFloats);
  state.most = take(rows);
  return state;
}

struct Finished {
  float most;   // the maximum so far
  float scale;  // by which the scores are still to be multiplied
};

// scores = scale * scores + mask (may be null), the first `seen` of them; the others are hidden. A row without either is only looked at.
Finished finish_scores(float* scores, float scale, const float* mask, int64_t seen, float most) {
  const bool all_seen = !mask && seen >= kKeys && scale > 0.0f;
  if (!all_seen) {
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
  Floats highest = load<kFloats>(scores);
  for (int64_t i = kFloats; i < kKeys; i += kFloats) highest = most_or(load<kFloats>(scores + i), highest);
  const float left = all_seen ? scale : 1.0f, here = largest(highest) * left;
  return {here > most ? here : most, left};
}

inline void store_weights(float* to, Floats weights) { store_raw(to, weights); }
#ifdef __AVX512F__
[[gnu::target("avx512bf16")]] inline void store_weights(uint32_t* to, Floats weights) {
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)weights);
  __builtin_memcpy(to, &rounded, sizeof rounded);
}
#endif

// weights = 2^(scale * scores - base), as units; sums = factor * sums + what they add up to, lane by lane. weights may be scores.
template <class Unit>
#ifdef __AVX512F__
[[gnu::target("avx512bf16")]]
#endif
void exponentials(Unit* weights, const float* scores, float scale, float base, float factor, float* sums) {
  Floats total = load<kFloats>(sums) * factor;
#pragma GCC unroll 8
  for (int64_t i = 0; i < kKeys; i += kFloats) {
    const Floats weight = power(fma(load<kFloats>(scores + i), all(scale), all(-base)));
    store_weights(weights + i / kElements<Unit>, weight);
    total += weight;
  }
  store_raw(sums, total);
}

// A run of rows: the queries from `first` on, of all heads that read the same keys.
struct Rows {
  int64_t batch, key_head, first, count;
};

struct Row {
  int64_t head, position;
};
inline Row row_of(const AttentionArgs& args, const Rows& rows, int64_t index) {
  const int64_t row = rows.first + index;
  return {rows.key_head * (args.heads / args.key_heads) + row / args.queries, row % args.queries};
}

inline Row next(const AttentionArgs& args, Row row) {
  return row.position + 1 < args.queries ? Row{row.head, row.position + 1} : Row{row.head + 1, 0};
}

// The last key that a causal mask leaves to any of the rows [first, first + count).
int64_t last_key(const AttentionArgs& args, const Rows& rows, int64_t first, int64_t count) {
  const Row begin = row_of(args, rows, first), end = row_of(args, rows, first + count - 1);
  return begin.head == end.head ? end.position : args.queries - 1;
}

// Mask of one row over `count` keys from `key` on, to be added: kKeys floats, in `buffer` unless it lies so already. Null without a mask.
const float* mask_row(const AttentionArgs& args, int64_t batch, const Row& row, int64_t key, int64_t count, float* buffer) {
  const int64_t* strides = args.mask_strides;
  const int64_t offset = batch * strides[0] + row.head * strides[1] + row.position * strides[2] + key * strides[3];
  switch (args.mask_kind) {
    case AttentionMask::none: return nullptr;
    case AttentionMask::bytes:
      for (int64_t i = 0; i < count; i++) buffer[i] = static_cast<const uint8_t*>(args.mask)[offset + i * strides[3]] ? 0.0f : -infinity;
      return buffer;
    default: break;
  }
  const bool bf16 = args.mask_kind == AttentionMask::bf16;
  const void* from = advance(args.mask, offset, bf16);
  if (!bf16 && strides[3] == 1 && count == kKeys) return static_cast<const float*>(from);
  load(buffer, from, bf16, strides[3], count);
  return buffer;
}

// Whether all that the mask adds is 0, or it hides no key: then nothing reads it. As padding masks are in a batch of equal lengths.
// A mask that hides something tells so soon.
template <class T>
bool is_idle(const AttentionArgs& args, T shown, T ignored) {
  const int64_t sizes[] = {args.batch, args.heads, args.queries, args.keys}, *strides = args.mask_strides;
  int64_t counts[4];
  for (int i = 0; i < 4; i++) counts[i] = strides[i] == 0 ? 1 : sizes[i];
  for (int64_t b = 0; b < counts[0]; b++)
    for (int64_t h = 0; h < counts[1]; h++)
      for (int64_t q = 0; q < counts[2]; q++) {
        const T* row = static_cast<const T*>(args.mask) + b * strides[0] + h * strides[1] + q * strides[2];
        T differs = 0;
#pragma omp simd reduction(| : differs)
        for (int64_t k = 0; k < counts[3]; k++) differs |= (row[k * strides[3]] ^ shown) & ~ignored;
        if (differs) return false;
      }
  return true;
}

bool mask_is_idle(const AttentionArgs& args) {
  switch (args.mask_kind) {
    case AttentionMask::none: return true;
    case AttentionMask::bytes: return is_idle<uint8_t>(args, 1, 0);
    case AttentionMask::bf16: return is_idle<uint16_t>(args, 0, 0x8000);  // of either sign
    default: return is_idle<uint32_t>(args, 0, 0x80000000);
  }
}

// A block of `count` keys from `first` on. A tile of rows sees the first `seen` at most.
struct Block {
  int64_t first, count, seen;
};

// Takes rows [first, first + R) of a chunk, of which `valid` are there, over one block.
template <int R, class Unit>
void tile(const AttentionArgs& args, const State<Unit>& state, const Rows& rows, int64_t first, int64_t valid, const Block& block) {
  alignas(64) float scores[R * kKeys], buffer[kKeys];
  alignas(64) Unit weights[R * kKeys / kElements<Unit>];
  float scales[R], bases[kFloats], factors[kFloats];
  for (int64_t j = 0; j < block.seen; j += kPanel)
    multiply_tile<R, 2>(state.query + first * state.depth, state.depth, state.keys + j * state.depth, state.depth, scores + j, kKeys,
                        nullptr);
  float* most = state.most + first;
  Row row = row_of(args, rows, first);
  for (int64_t r = 0; r < R; r++) {
    const float* mask = r < valid ? mask_row(args, rows.batch, row, block.first, block.count, buffer) : nullptr;
    const int64_t seen = args.causal ? least(row.position - block.first + 1, block.seen) : block.seen;
    const Finished finished = finish_scores(scores + r * kKeys, args.scale * log2_e, mask, seen, most[r]);
    scales[r] = finished.scale;
    bases[r] = finished.most == -infinity ? 0.0f : finished.most;  // all hidden so far: every weight is 0
    factors[r] = most[r] - bases[r];
    most[r] = finished.most;
    row = next(args, row);
  }
  each(factors, factors, R, [](Floats x) { return power(x); });
  for (int64_t r = 0; r < R; r++)
    exponentials(weights + r * kKeys / kElements<Unit>, scores + r * kKeys, scales[r], bases[r], factors[r],
                 state.sums + (first + r) * kFloats);
  const int64_t stride = kKeys / kElements<Unit>, depth = ceil_div(block.seen, kElements<Unit>);
  for (int64_t j = 0; j < args.width; j += kPanel) {
    float* output = state.output + first * state.width + j;
    const Unit* values = state.values + j * ceil_div(block.count, kElements<Unit>);
    if (args.width - j > kFloats)
      multiply_tile<R, 2>(weights, stride, values, depth, output, state.width, factors);
    else
      multiply_tile<R, 1>(weights, stride, values, depth, output, state.width, factors);
  }
}

template <class Unit>
void tiles(const AttentionArgs& args, const State<Unit>& state, const Rows& rows, int64_t key, int64_t count) {
  for (int64_t first = 0; first < rows.count; first += kTileRows) {
    const int64_t valid = least(kTileRows, rows.count - first);
    const Block block = {key, count, args.causal ? least(count, last_key(args, rows, first, valid) - key + 1) : count};
    if (block.seen <= 0) continue;
    if (valid == 1)
      tile<1>(args, state, rows, first, valid, block);
    else if (valid <= kTileRows / 2)
      tile<kTileRows / 2>(args, state, rows, first, valid, block);
    else
      tile<kTileRows>(args, state, rows, first, valid, block);
  }
}

template <class In, class Unit>
void begin(const AttentionArgs& args, const State<Unit>& state, const Rows& rows) {
  const int64_t* strides = args.query_strides;
  Row row = row_of(args, rows, 0);
  for (int64_t i = 0; i < rows.count; i++, row = next(args, row)) {
    const In* query = static_cast<const In*>(args.query) + rows.batch * strides[0] + row.head * strides[1] + row.position * strides[2];
    pack_row(state.query + i * state.depth, query, args.depth);
  }
  const int64_t padded = ceil_div(rows.count, kTileRows) * kTileRows;
  for (int64_t i = rows.count * state.depth; i < padded * state.depth; i++) state.query[i] = Unit{};
  for (int64_t i = 0; i < padded * state.width; i++) state.output[i] = 0.0f;
  for (int64_t i = 0; i < padded * kFloats; i++) state.sums[i] = 0.0f;
  for (int64_t i = 0; i < padded; i++) state.most[i] = -infinity;
}

template <class Unit>
void end(const AttentionArgs& args, const State<Unit>& state, const Rows& rows) {
  const int64_t* strides = args.output_strides;
  Row row = row_of(args, rows, 0);
  for (int64_t i = 0; i < rows.count; i++, row = next(args, row)) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < kFloats; j++) sum += state.sums[i * kFloats + j];
    const float factor = sum == 0.0f ? args.hidden : 1.0f / sum;
    float* result = state.output + i * state.width;
#pragma omp simd
    for (int64_t j = 0; j < args.width; j++) result[j] *= factor;
    const int64_t offset = rows.batch * strides[0] + row.head * strides[1] + row.position * strides[2];
    store(advance(args.output, offset, args.bf16), result, args.bf16, 1, args.width);
  }
}

// A chunk of one row, on keys and values where they lie.
void single(const AttentionArgs& args, const State<float>& state, const Rows& rows, const float* keys, const float* values) {
  alignas(64) float scores[kKeys], buffer[kKeys];
  const Row row = row_of(args, rows, 0);
  const int64_t seen = args.causal ? least(row.position + 1, args.keys) : args.keys;
  float most = -infinity;
  for (int64_t key = 0; key < seen; key += kKeys) {
    const int64_t count = least(kKeys, seen - key);
    multiply_keys(scores, state.query, keys + key * args.key_strides[2], args.key_strides[2], count, args.depth);
    const float* mask = mask_row(args, rows.batch, row, key, count, buffer);
    const float before = most;
    const Finished finished = finish_scores(scores, args.scale * log2_e, mask, count, before);
    most = finished.most;
    const float base = most == -infinity ? 0.0f : most, factor = power(all(before - base))[0];
    exponentials(scores, scores, finished.scale, base, factor, state.sums);
    add_values(state.output, factor, scores, values + key * args.value_strides[2], args.value_strides[2], count, args.width);
  }
}

template <class In, class Unit>
void chunk(const AttentionArgs& args, std::byte* scratch, const Rows& rows) {
  const State<Unit> state = lay_out<Unit>(args, scratch);
  begin<In>(args, state, rows);
  const In* keys = static_cast<const In*>(args.key) + rows.batch * args.key_strides[0] + rows.key_head * args.key_strides[1];
  const In* values = static_cast<const In*>(args.value) + rows.batch * args.value_strides[0] + rows.key_head * args.value_strides[1];
  if constexpr (sizeof(In) == sizeof(float))
    if (rows.count == 1) {
      single(args, state, rows, keys, values);
      return end(args, state, rows);
    }
  const int64_t last = args.causal ? last_key(args, rows, 0, rows.count) : args.keys - 1;
  for (int64_t key = 0; key < args.keys && key <= last; key += kKeys) {
    const int64_t count = least(kKeys, args.keys - key);
    pack_keys(state.keys, keys + key * args.key_strides[2], args.key_strides[2], count, args.depth);
    pack_values(state.values, values + key * args.value_strides[2], args.value_strides[2], count, args.width);
    tiles(args, state, rows, key, count);
  }
  end(args, state, rows);
}

}  // namespace

void attention(const AttentionArgs& given) {
  AttentionArgs args = given;
  if (mask_is_idle(args)) args.mask_kind = AttentionMask::none;
  const int64_t rows = args.heads / args.key_heads * args.queries, chunks = ceil_div(rows, args.chunk);
#pragma omp parallel for num_threads(args.threads) schedule(dynamic) if (args.threads > 1)
  for (int64_t item = 0; item < args.batch * args.key_heads * chunks; item++) {
    const int64_t head = item / chunks, first = item % chunks * args.chunk;
    const Rows part = {head / args.key_heads, head % args.key_heads, first, least(args.chunk, rows - first)};
    std::byte* scratch = args.scratch + omp_get_thread_num() * args.scratch_bytes;
    if (!args.bf16) chunk<float, float>(args, scratch, part);
#ifdef __AVX512F__
    else if (args.pairs)
      chunk<uint16_t, uint32_t>(args, scratch, part);
#endif
    else
      chunk<uint16_t, float>(args, scratch, part);
  }
}

}  // namespace drystone::DRYSTONE_ISA
