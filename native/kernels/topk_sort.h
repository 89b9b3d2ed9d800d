// Finding a key by its rank, and sorting items.
#pragma once

#include "kernels/topk_keys.h"

namespace drystone::DRYSTONE_ISA {

template <class Key>
int64_t count_up_to(const Key* keys, int64_t count, Key bound) {
  int32_t found = 0;
#pragma omp simd reduction(+ : found)
  for (int64_t i = 0; i < count; i++) found += keys[i] <= bound;
  return found;
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

constexpr int64_t few = 128, many = 8192;

// Each item goes to the place that the number of lesser ones tells: no branches, and vectors throughout.
inline void sort_few(const int64_t* items, int64_t count, int64_t* sorted) {
  for (int64_t i = 0; i < count; i++) {
    int64_t rank = 0;
#pragma omp simd reduction(+ : rank)
    for (int64_t j = 0; j < count; j++) rank += items[j] < items[i];
    sorted[rank] = items[i];
  }
}

// No vectors compare such items, but their keys, of which equal ones stay in order.
inline void sort_few(const __int128* items, int64_t count, __int128* sorted) {
  int64_t keys[few];
  for (int64_t i = 0; i < count; i++) keys[i] = key_of<int64_t>(items[i]);
  for (int64_t i = 0; i < count; i++) {
    const int64_t key = keys[i];
    int64_t rank = 0;
#pragma omp simd reduction(+ : rank)
    for (int64_t j = 0; j < i; j++) rank += keys[j] <= key;
#pragma omp simd reduction(+ : rank)
    for (int64_t j = i; j < count; j++) rank += keys[j] < key;
    sorted[rank] = items[i];
  }
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
    sort_few(items, count, other);
    return other;
  }
  return count < many || sizeof(Key) < 4 ? sort_many<Key, 8>(items, count, other) : sort_many<Key, 11>(items, count, other);
}

}  // namespace drystone::DRYSTONE_ISA
