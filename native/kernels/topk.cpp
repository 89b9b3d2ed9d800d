// The k largest or smallest elements along an axis, best first; of equal elements those with the lowest index.
//
// Rows are read as keys (topk_keys.h), of which the k least are wanted, and that at memory speed where k is small: a first pass leaves
// the minimum of every block, the k-th least of those is a bound that k blocks have an element below, and a second pass looks
// only into blocks whose minimum is not above it. They hold few elements more than are wanted, in whatever order the row is.
// For more elements of a longer row, a sample gives the bound instead; the whole row is sorted where that lets too few through.
// Candidates are sorted by how many are less (few), or by radix.
//
// Zen 5, AVX-512, one core, a row of float32 in the caches: the 100 largest of 1000 take 1.1 us, of 50 257 7 us, of 1 000 000 55 us
// (73 GB/s); the larger half of 50 257 130 us.
#include "kernels/topk.h"

#include <omp.h>

#include "kernels/topk_lanes.h"
#include "kernels/topk_sort.h"
#include "kernels/transpose.h"
#include "kernels/walk_inline.h"

namespace drystone::DRYSTONE_ISA {

namespace {

template <class F>
struct Row {
  using Key = typename F::Key;
  using V = KeyVector<Key>;
  static constexpr int lanes = lanes_of<Key>;

  const Key* data;
  int64_t count;
  Key flip;  // turns the order round: the complement, of which no key overflows

  V load(int64_t i) const { return F::keys(load_raw<lanes>(data + i)) ^ flip; }
  // Fewer elements than a vector has lanes; what the other lanes hold means nothing.
  V load(int64_t i, int64_t size) const {
    V bits{};
    __builtin_memcpy(&bits, data + i, static_cast<size_t>(size) * sizeof(Key));
    return F::keys(bits) ^ flip;
  }
};

template <class Key>
Key least_of(KeyVector<Key> keys, int64_t size) {
  Key lanes[lanes_of<Key>], found = greatest<Key>;
  store_raw(lanes, keys);
#pragma omp simd reduction(min : found)
  for (int64_t lane = 0; lane < size; lane++) found = lanes[lane] < found ? lanes[lane] : found;
  return found;
}

template <class F>
typename F::Key least_of(const Row<F> row, int64_t begin, int64_t end) {
  if (end - begin < row.lanes) return least_of<typename F::Key>(row.load(begin, end - begin), end - begin);
  auto least = row.load(end - row.lanes);
  for (int64_t i = begin; i < end - row.lanes; i += row.lanes) {
    const auto keys = row.load(i);
    least = keys < least ? keys : least;
  }
  return least_of<typename F::Key>(least, row.lanes);
}

// Multiples of the golden ratio: spread evenly over a row of any length, and in step with no pattern in it.
inline int64_t sample_place(int64_t i, int64_t count) {
  const uint64_t fraction = (static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u) >> 32;
  return static_cast<int64_t>((fraction * static_cast<uint64_t>(count)) >> 32);
}

template <class F>
void find_representatives(const TopkArgs& args, const Row<F>& row, typename F::Key* to, int threads) {
  const int64_t count = args.representatives;
  if (args.bound == TopkBound::blocks) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t i = 0; i < count; i++) to[i] = least_of(row, i * args.block, least((i + 1) * args.block, row.count));
    return;
  }
  Row<F> chosen = row;
  if (args.bound == TopkBound::sample) {
    for (int64_t i = 0; i < count; i++) to[i] = row.data[sample_place(i, row.count)];
    chosen.data = to;
  }
  int64_t i = 0;
  for (; i + row.lanes <= count; i += row.lanes) store_raw(to + i, chosen.load(i));
  if (i < count) store_raw(to + i, chosen.load(i, count - i));
}

// Collects the items of elements whose keys are not above a bound, in the order of their places.
template <class F>
struct Candidates {
  using Key = typename F::Key;

  Item<Key>* items;
  int64_t wanted;
  Key bound;
  int64_t count = 0;
  bool enough = false, full = false;

  // Once there are enough, only what is below the bound can still be chosen; nothing, where no key is.
  void add(const Row<F> row, int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + row.lanes <= end && !full; i += row.lanes) add(row.load(i), i, row.lanes);
    if (i < end && !full) add(row.load(i, end - i), i, end - i);
  }

 private:
  void add(KeyVector<Key> keys, int64_t place, int64_t size) {
    const uint64_t found = lanes_up_to(keys, bound) & (~uint64_t{0} >> (64 - size));
    if (!found) return;
    count = append_items<Key>(items + count, keys, place, found) - items;
    if (!enough && count >= wanted) {
      enough = true;
      full = bound == ~greatest<Key>;
      bound -= !full;
    }
  }
};

// What one thread works in.
template <class Key>
struct Scratch {
  Item<Key>*items, *other;
  Key *representatives, *rows;

  Scratch(const TopkArgs& args, int thread) {
    items = reinterpret_cast<Item<Key>*>(args.scratch + thread * args.scratch_bytes);
    other = items + args.candidates;
    representatives = reinterpret_cast<Key*>(other + args.candidates);
    rows = representatives + (args.representatives + 63) / 64 * 64;
  }
};

// Keeps `wanted` items: those below the bound, and the first ones of those at it.
template <class Key>
void leave_out_last(Item<Key>* items, int64_t count, int64_t wanted, Key bound) {
  int64_t room = wanted, kept = 0;
  for (int64_t i = 0; i < count; i++) room -= key_of<Key>(items[i]) < bound;
  for (int64_t i = 0; i < count; i++) {
    const bool at_bound = key_of<Key>(items[i]) == bound;
    if (at_bound && room == 0) continue;
    room -= at_bound;
    items[kept++] = items[i];
  }
}

template <class F>
void one_row(const TopkArgs& args, const typename F::Key* x, typename F::Key* values, int64_t* indices,
             const Scratch<typename F::Key>& scratch, int threads) {
  using Key = typename F::Key;
  const Row<F> row{x, args.count, static_cast<Key>(args.largest ? -1 : 0)};

  Key bound = greatest<Key>;
  if (args.bound != TopkBound::none) {
    find_representatives(args, row, scratch.representatives, threads);
    bound = key_of_rank(scratch.representatives, args.representatives, args.rank, args.slack);
  }
  Candidates<F> found{scratch.items, args.k, bound};
  if (args.bound == TopkBound::blocks) {
    for (int64_t i = 0; i < args.representatives; i++)
      if (scratch.representatives[i] <= found.bound) found.add(row, i * args.block, least((i + 1) * args.block, args.count));
  } else {
    found.add(row, 0, args.count);
    if (found.count < args.k) {
      found = {scratch.items, args.k, greatest<Key>};
      found.add(row, 0, args.count);
    }
  }

  const Item<Key>* chosen = scratch.items;
  if (args.sorted)
    chosen = sort<Key>(scratch.items, found.count, scratch.other);
  else
    leave_out_last(scratch.items, found.count, args.k, bound);
  for (int64_t i = 0; i < args.k; i++) {
    const Key key = key_of<Key>(chosen[i]) ^ row.flip;
    const int64_t place = place_of<Key>(chosen[i]);
    values[i * args.result_stride] = F::is_unique(key) ? F::bits(key) : x[place];
    indices[i * args.result_stride] = place;
  }
}

// Copies rows whose elements do not lie together; by tiles, where it is neighbouring rows' elements that do.
template <class Key>
void gather(const TopkArgs& args, const Key* from, int64_t row_stride, int64_t rows, Key* to) {
  int64_t done = 0;
  if constexpr (sizeof(Key) == 4) {
    constexpr int tile = lanes_of<Key>;
    if (row_stride == 1)
      for (; done + tile <= rows; done += tile) {
        int64_t i = 0;
        for (; i + tile <= args.count; i += tile)
          transpose_tile<tile>(from + done + i * args.stride, to + done * args.count + i, args.stride, args.count);
        for (; i < args.count; i++)
          for (int64_t row = done; row < done + tile; row++) to[row * args.count + i] = from[row + i * args.stride];
      }
  }
  for (int64_t i = 0; i < args.count; i++)
    for (int64_t row = done; row < rows; row++) to[row * args.count + i] = from[row * row_stride + i * args.stride];
}

template <class F>
void all_rows(const TopkArgs& args) {
  using Key = typename F::Key;
  const auto* input = static_cast<const Key*>(args.input);
  auto* values = static_cast<Key*>(args.values);
  const int last = args.rows.axes - 1;
  const int64_t rows = count_of(args.rows), inner = last < 0 ? 1 : args.rows.sizes[last];
  const int64_t row_stride = last < 0 ? 0 : args.rows.strides[0][last];
  const int64_t gangs = ceil_div(inner, args.gang);  // of neighbouring rows
  const auto gang = [&](int64_t index, int thread, int threads) {
    const Scratch<Key> scratch(args, thread);
    const int64_t begin = index % gangs * args.gang, end = least(begin + args.gang, inner);
    const int64_t first = index / gangs * inner + begin;
    const Key* from = input + offset_of(args.rows, first, 0);
    if (args.stride != 1) gather(args, from, row_stride, end - begin, scratch.rows);
    for (int64_t row = 0; row < end - begin; row++) {
      const int64_t to = offset_of(args.rows, first + row, 1);
      one_row<F>(args, args.stride == 1 ? from + row * row_stride : scratch.rows + row * args.count, values + to, args.indices + to,
                 scratch, threads);
    }
  };
  const int64_t work = rows / inner * gangs;
  if (rows < args.threads) {
    for (int64_t index = 0; index < work; index++) gang(index, 0, args.threads);
    return;
  }
#pragma omp parallel for num_threads(args.threads) schedule(dynamic, work / (8 * args.threads) + 1) if (args.threads > 1)
  for (int64_t index = 0; index < work; index++) gang(index, omp_get_thread_num(), 1);
}

}  // namespace

void topk(const TopkArgs& args) {
  switch (args.dtype) {
    case DType::f64: return all_rows<FloatingPoint<int64_t, 0x7ff0000000000000>>(args);
    case DType::f32: return all_rows<FloatingPoint<int32_t, 0x7f800000>>(args);
    case DType::f16: return all_rows<FloatingPoint<int16_t, 0x7c00>>(args);
    case DType::bf16: return all_rows<FloatingPoint<int16_t, 0x7f80>>(args);
    case DType::s64: return all_rows<Integer<int64_t, 0>>(args);
    case DType::s32: return all_rows<Integer<int32_t, 0>>(args);
    case DType::s16: return all_rows<Integer<int16_t, 0>>(args);
    case DType::s8: return all_rows<Integer<int8_t, 0>>(args);
    default: return all_rows<Integer<int8_t, -128>>(args);
  }
}

}  // namespace drystone::DRYSTONE_ISA
