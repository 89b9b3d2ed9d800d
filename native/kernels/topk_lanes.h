// Which lanes of a vector are chosen, and the items of those lanes side by side in memory.
#pragma once

#include <immintrin.h>

#include "kernels/topk.h"
#include "kernels/topk_keys.h"

namespace drystone::DRYSTONE_ISA {

// A bit a lane.
template <class Key>
inline uint64_t lanes_up_to(KeyVector<Key> keys, Key bound) {
  const KeyVector<Key> bounds = KeyVector<Key>{} + bound;
#ifdef __AVX512F__
  const auto x = (__m512i)keys, y = (__m512i)bounds;
  if constexpr (sizeof(Key) == 1) return _mm512_cmple_epi8_mask(x, y);
  uint32_t lanes;
  if constexpr (sizeof(Key) == 2)
    lanes = _mm512_cmple_epi16_mask(x, y);
  else if constexpr (sizeof(Key) == 4)
    lanes = _mm512_cmple_epi32_mask(x, y);
  else
    lanes = _mm512_cmple_epi64_mask(x, y);
  __asm__("" : "+r"(lanes));  // GCC 12, short of registers, else writes four bytes to the stack and reads eight
  return lanes;
#else
  const auto chosen = (__m256i)(keys <= bounds);
  if constexpr (sizeof(Key) == 1)
    return static_cast<uint32_t>(_mm256_movemask_epi8(chosen));
  else if constexpr (sizeof(Key) == 2)
    return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1))));
  else if constexpr (sizeof(Key) == 4)
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(chosen)));
  else
    return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(chosen)));
#endif
}

#ifndef __AVX512F__
// By which of four lanes of 64 bits are chosen: the halves of those lanes, in order.
alignas(32) inline constexpr int32_t chosen_halves[16][8] = {
    {},     {0, 1},       {2, 3},       {0, 1, 2, 3},       {4, 5},       {0, 1, 4, 5},       {2, 3, 4, 5},       {0, 1, 2, 3, 4, 5},
    {6, 7}, {0, 1, 6, 7}, {2, 3, 6, 7}, {0, 1, 2, 3, 6, 7}, {4, 5, 6, 7}, {0, 1, 4, 5, 6, 7}, {2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7},
};
#endif

// The chosen ones of a vector of items. Gives the end; a whole vector is written.
inline int64_t* append(int64_t* to, Vector<int64_t, lanes_of<int64_t>> items, uint64_t chosen) {
#ifdef __AVX512F__
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(static_cast<__mmask8>(chosen), (__m512i)items));
#else
  const auto halves = _mm256_load_si256(reinterpret_cast<const __m256i*>(chosen_halves[chosen]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32((__m256i)items, halves));
#endif
  return to + __builtin_popcountll(chosen);
}

// Items of the chosen lanes, of which the first is at `place`. Gives the end; up to `topk_spare_items` after it are overwritten.
template <class Key>
inline Item<Key>* append_items(Item<Key>* items, KeyVector<Key> keys, int64_t place, uint64_t chosen) {
  Key lanes[lanes_of<Key>];
  store_raw(lanes, keys);
  if constexpr (sizeof(Key) == 4) {
    constexpr int half = lanes_of<Key> / 2;
    constexpr int64_t steps[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int lane = 0; lane < lanes_of<Key>; lane += half) {
      const auto wide = __builtin_convertvector(load_raw<half>(lanes + lane), Vector<int64_t, half>);
      const auto places = load_raw<half>(steps) + (place + lane);
      items = append(items, (wide << place_bits<Key>) | places, (chosen >> lane) & ((1 << half) - 1));
    }
    return items;
  } else {
    for (; chosen; chosen &= chosen - 1) {
      const int lane = __builtin_ctzll(chosen);
      *items++ = item_of(lanes[lane], place + lane);
    }
    return items;
  }
}

}  // namespace drystone::DRYSTONE_ISA
