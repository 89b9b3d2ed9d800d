// The k largest or smallest elements along an axis, best first; of equal elements those with the lowest index.
//
// Rows are read as keys (topk_keys.h), of which the k least are wanted, and that at memory speed where k is small: a first pass leaves
// the minimum of every block, the k-th least of those is a bound that k blocks have an element below, and a second pass looks
// only into blocks whose minimum is not above it. They hold few elements more than are wanted, in whatever order the row is.
// For more elements of a longer row, a sample gives the bound instead; the whole row is sorted where that lets too few through.
// Candidates are sorted by how many are less (few), or by radix.
#include "kernels/topk.h"

#include <omp.h>

#include "kernels/topk_lanes.h"
#include "kernels/topk_sort.h"
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

// Spread evenly over a row of any length, and in step with no pattern in it.
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

// Items of the elements whose keys are not above a bound, in the order of their places.
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

template <class F>
void one_row(const TopkArgs& args, const void* input, void* values, int64_t* indices, char* scratch, int threads) {
  using Key = typename F::Key;
  const auto* x = static_cast<const Key*>(input);
  auto* y = static_cast<Key*>(values);
  auto* items = reinterpret_cast<Item<Key>*>(scratch);
  auto* other = items + args.candidates;
  auto* representatives = reinterpret_cast<Key*>(other + args.candidates);
  if (args.stride != 1) {
    Key* dense = representatives + (args.representatives + 63) / 64 * 64;
    for (int64_t i = 0; i < args.count; i++) dense[i] = x[i * args.stride];
    x = dense;
  }
  const Row<F> row{x, args.count, static_cast<Key>(args.largest ? -1 : 0)};

  Candidates<F> found{items, args.k, greatest<Key>};
  if (args.bound != TopkBound::none) {
    find_representatives(args, row, representatives, threads);
    found.bound = key_of_rank(representatives, args.representatives, args.rank, args.slack);
  }
  if (args.bound == TopkBound::blocks) {
    for (int64_t i = 0; i < args.representatives; i++)
      if (representatives[i] <= found.bound) found.add(row, i * args.block, least((i + 1) * args.block, args.count));
  } else {
    found.add(row, 0, args.count);
    if (found.count < args.k) {
      found = {items, args.k, greatest<Key>};
      found.add(row, 0, args.count);
    }
  }

  const Item<Key>* sorted = sort<Key>(items, found.count, other);
  for (int64_t i = 0; i < args.k; i++) {
    const Key key = key_of<Key>(sorted[i]) ^ row.flip;
    const int64_t place = place_of<Key>(sorted[i]);
    y[i * args.result_stride] = F::is_unique(key) ? F::bits(key) : x[place];
    indices[i * args.result_stride] = place;
  }
}

template <class F>
void all_rows(const TopkArgs& args) {
  const int64_t rows = count_of(args.rows);
  const auto one = [&](int64_t index, char* scratch, int threads) {
    const int64_t from = offset_of(args.rows, index, 0), to = offset_of(args.rows, index, 1);
    using Key = typename F::Key;
    one_row<F>(args, static_cast<const Key*>(args.input) + from, static_cast<Key*>(args.values) + to, args.indices + to, scratch, threads);
  };
  if (rows == 1) return one(0, args.scratch, args.threads);
#pragma omp parallel num_threads(args.threads) if (args.threads > 1)
  {
    char* scratch = args.scratch + omp_get_thread_num() * args.scratch_bytes;
#pragma omp for schedule(dynamic)
    for (int64_t index = 0; index < rows; index++) one(index, scratch, 1);
  }
}

}  // namespace

void topk(const TopkArgs& args) {
  switch (args.element) {
    case TopkElement::f64: return all_rows<FloatingPoint<int64_t, 0x7ff0000000000000>>(args);
    case TopkElement::f32: return all_rows<FloatingPoint<int32_t, 0x7f800000>>(args);
    case TopkElement::f16: return all_rows<FloatingPoint<int16_t, 0x7c00>>(args);
    case TopkElement::bf16: return all_rows<FloatingPoint<int16_t, 0x7f80>>(args);
    case TopkElement::s64: return all_rows<Integer<int64_t, 0>>(args);
    case TopkElement::s32: return all_rows<Integer<int32_t, 0>>(args);
    case TopkElement::s16: return all_rows<Integer<int16_t, 0>>(args);
    case TopkElement::s8: return all_rows<Integer<int8_t, 0>>(args);
    case TopkElement::u8: return all_rows<Integer<int8_t, -128>>(args);
  }
}

}  // namespace drystone::DRYSTONE_ISA
