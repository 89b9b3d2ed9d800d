// Elements of any dtype as integers of their width, in the order in which they are chosen: the least key first.
#pragma once

#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

template <class Key>
inline constexpr Key greatest = static_cast<Key>((uint64_t{1} << (8 * sizeof(Key) - 1)) - 1);
template <class Key>
inline constexpr int lanes_of = kVectorBytes / sizeof(Key);
template <class Key>
using KeyVector = Vector<Key, lanes_of<Key>>;

// A sign and a magnitude, of which those above `infinity` are NaN: all NaN are equal, and greater than any number; so are both zeros.
template <class K, K infinity>
struct FloatingPoint {
  using Key = K;
  using V = KeyVector<K>;
  static V keys(V bits) {
    const V sign = bits >> (8 * sizeof(K) - 1), magnitude = bits & greatest<K>;
    return magnitude > infinity ? V{} + greatest<K> : (magnitude ^ sign) - sign;
  }
  // False for a key that several elements have.
  static bool is_unique(K key) { return key != 0 && key != greatest<K>; }
  static K bits(K key) { return key < 0 ? static_cast<K>(-key | ~greatest<K>) : key; }
};

template <class K, K offset>
struct Integer {
  using Key = K;
  using V = KeyVector<K>;
  static V keys(V bits) { return bits ^ offset; }
  static bool is_unique(K) { return true; }
  static K bits(K key) { return key ^ offset; }
};

// A key and the place in the row, as one number: its order is that of the keys, and of the places where keys are equal.
template <class Key>
struct ItemOf {
  using type = int64_t;
  using key = int32_t;  // all the item's bits of it
};
template <>
struct ItemOf<int64_t> {
  using type = __int128;
  using key = int64_t;
};
template <class Key>
using Item = typename ItemOf<Key>::type;

template <class Key>
inline constexpr int place_bits = 4 * sizeof(Item<Key>);

template <class Key>
inline Item<Key> item_of(Key key, int64_t place) {
  return (static_cast<Item<Key>>(key) << place_bits<Key>) | place;
}
template <class Key>
inline Key key_of(Item<Key> item) {
  return static_cast<Key>(item >> place_bits<Key>);
}
template <class Key>
inline int64_t place_of(Item<Key> item) {
  return static_cast<int64_t>(item & ((static_cast<Item<Key>>(1) << place_bits<Key>)-1));
}

}  // namespace drystone::DRYSTONE_ISA
