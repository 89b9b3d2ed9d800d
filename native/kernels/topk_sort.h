// Finding a key by its rank, and sorting items.
#pragma once

#include "kernels/block.h"
#include "kernels/topk_keys.h"

namespace drystone::DRYSTONE_ISA {

template <class Key>
int64_t count_up_to(const Key* keys, int64_t count, Key bound) {
  int32_t above = 0;
#pragma GCC unroll 4
  for (int64_t i = 0; i < count; i++) above += keys[i] > bound;
  return count - above;
}

// A key that at least `rank` of the keys are not above, and at most `rank + slack`, but for those equal to it: by bisection.
template <class Key>
Key key_of_rank(const Key* keys, int64_t count, int64_t rank, int64_t slack) {
  Key low = greatest<Key>, high = ~greatest<Key>;
#pragma omp simd reduction(min : low) reduction(max : high)
  for (int64_t i = 0; i < count; i++) {
    low = keys[i] < low ? keys[i] : low;
    high = keys[i] > high ? keys[i] : high;
  }
  if (rank == 1) return low;
  while (low < high) {
    const Key middle = static_cast<Key>(low + static_cast<Key>((static_cast<uint64_t>(high) - static_cast<uint64_t>(low)) >> 1));
    const int64_t found = count_up_to(keys, count, middle);
    if (found < rank) {
      low = middle + 1;
    } else {
      high = middle;
      if (found <= rank + slack) break;
    }
  }
  return high;
}

constexpr int64_t few = 256, many = 8192;

// How many of the keys come before those at `begin` to `begin` + lanes, as many as there are: lesser ones, and equal ones that are earlier.
template <class Key>
KeyVector<Key> ranks_of(const Key* keys, int64_t count, int64_t begin, KeyVector<Key> lane_numbers) {
  using V = KeyVector<Key>;
  const V mine = load_raw<lanes_of<Key>>(keys + begin);
  const int64_t end = least(begin + lanes_of<Key>, count);
  V later{}, rank{};  // -1 for each
#pragma GCC unroll 4
  for (int64_t j = 0; j < begin; j++) later += mine < keys[j];
  for (int64_t j = begin; j < end; j++) rank += (keys[j] < mine) | ((keys[j] == mine) & (static_cast<Key>(j - begin) < lane_numbers));
#pragma GCC unroll 4
  for (int64_t j = end; j < count; j++) rank += keys[j] < mine;
  return static_cast<Key>(begin) + later - rank;
}

// Each item goes to the place that its rank tells: no branches, and vectors throughout. Items come in the order of their places.
template <class Key>
void sort_few(const Item<Key>* items, int64_t count, Item<Key>* sorted) {
  using Wide = typename ItemOf<Key>::key;
  constexpr int lanes = lanes_of<Wide>;
  Wide keys[few + lanes], ranks[few + lanes];
  for (int64_t i = 0; i < count; i++) keys[i] = key_of<Key>(items[i]);
  KeyVector<Wide> lane_numbers;
  for (int lane = 0; lane < lanes; lane++) lane_numbers[lane] = static_cast<Wide>(lane);
  for (int64_t i = 0; i < count; i += lanes) store_raw(ranks + i, ranks_of<Wide>(keys, count, i, lane_numbers));
  for (int64_t i = 0; i < count; i++) sorted[ranks[i]] = items[i];
}

// From the lowest digit of the keys to the highest; items come in the order of their places, which equal keys keep.
// A digit that all keys share is passed over. Gives whichever of the two arrays holds the result.
template <class Key, int digit_bits>
Item<Key>* sort_many(Item<Key>* items, int64_t count, Item<Key>* other) {
  constexpr int key_bits = 8 * sizeof(Key), digits = (key_bits + digit_bits - 1) / digit_bits, values = 1 << digit_bits;
  const auto digit_of = [](Item<Key> item, int digit) {
    const uint64_t bits = static_cast<uint64_t>(key_of<Key>(item)) + (uint64_t{1} << (key_bits - 1));
    return static_cast<int>(bits >> (digit * digit_bits)) & (values - 1);
  };
  uint32_t place[values];
  for (int digit = 0; digit < digits; digit++) {
    for (uint32_t& size : place) size = 0;
    for (int64_t i = 0; i < count; i++) place[digit_of(items[i], digit)]++;
    if (place[digit_of(items[0], digit)] == count) continue;
    uint32_t next = 0;
    for (int value = 0; value < values; value++) {
      const uint32_t size = place[value];
      place[value] = next;
      next += size;
    }
    for (int64_t i = 0; i < count; i++) other[place[digit_of(items[i], digit)]++] = items[i];
    Item<Key>* sorted = other;
    other = items;
    items = sorted;
  }
  return items;
}

template <class Key>
Item<Key>* sort(Item<Key>* items, int64_t count, Item<Key>* other) {
  if (count <= few) {
    sort_few<Key>(items, count, other);
    return other;
  }
  return count < many || sizeof(Key) < 4 ? sort_many<Key, 8>(items, count, other) : sort_many<Key, 11>(items, count, other);
}

}  // namespace drystone::DRYSTONE_ISA
