// Copies of bytes: short ones without a call, and ones that pass the caches by.
//
// A store that misses the caches first reads the line that it is about to overwrite. A non-temporal one does not, which is a third of
// the traffic of a large copy; but what it wrote is in no cache afterwards, so it is for results that no cache would hold.
#pragma once

#include <immintrin.h>

#include "kernels/vectors.h"

namespace drystone::DRYSTONE_ISA {

constexpr int kLine = 64;

// A line at an address divisible by 64.
inline void stream_line(char* to, const char* from) {
#ifdef __AVX512F__
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
#else
  for (int half = 0; half < kLine; half += 32)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + half), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + half)));
#endif
}

// Non-temporal stores are seen by other threads in order only after this.
inline void finish_streams() { _mm_sfence(); }

// Two accesses that overlap serve every size from Bytes to 2 * Bytes.
template <int Bytes>
inline void copy_overlapping(char* to, const char* from, int64_t bytes) {
  const auto first = load_raw<Bytes>(from), last = load_raw<Bytes>(from + bytes - Bytes);
  store_raw(to, first);
  store_raw(to + bytes - Bytes, last);
}

inline void copy_short(char* to, const char* from, int64_t bytes) {
  constexpr int width = 32;  // wider ones cross lines at every access, as neither side is aligned
  if (bytes >= 2 * width) {
    const int64_t last = bytes - width;
    for (int64_t i = 0; i < last; i += width) store_raw(to + i, load_raw<width>(from + i));
    store_raw(to + last, load_raw<width>(from + last));
  } else if (bytes >= 32) {
    copy_overlapping<32>(to, from, bytes);
  } else if (bytes >= 16) {
    copy_overlapping<16>(to, from, bytes);
  } else if (bytes >= 8) {
    copy_overlapping<8>(to, from, bytes);
  } else if (bytes >= 4) {
    copy_overlapping<4>(to, from, bytes);
  } else if (bytes >= 2) {
    copy_overlapping<2>(to, from, bytes);
  } else if (bytes == 1) {
    *to = *from;
  }
}

// From here on the C library's copy is the faster: it need not read what it overwrites.
constexpr int64_t long_copy = 16384;

inline void copy_bytes(char* to, const char* from, int64_t bytes) {
  if (bytes >= long_copy) {
    __builtin_memcpy(to, from, bytes);
  } else {
    copy_short(to, from, bytes);
  }
}

// The whole lines of the target pass the caches by; what lies before and after them does not.
inline void stream_bytes(char* to, const char* from, int64_t bytes) {
  const int64_t head = -reinterpret_cast<intptr_t>(to) & (kLine - 1);
  if (bytes < head + kLine) return copy_short(to, from, bytes);
  copy_short(to, from, head);
  int64_t at = head;
  for (; at + kLine <= bytes; at += kLine) stream_line(to + at, from + at);
  copy_short(to + at, from + at, bytes - at);
}

}  // namespace drystone::DRYSTONE_ISA
