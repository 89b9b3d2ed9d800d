// Fixed-width vectors in the compiler's own syntax, for kernels that keep accumulators in registers or shuffle lanes. float32 in
// registers; float32 or bfloat16 (as uint16_t) in memory. Widths are template arguments: the same code serves every ISA.
#pragma once

#include <cstdint>

#include "kernels/math.h"

namespace drystone::DRYSTONE_ISA {

#ifdef __AVX512F__
constexpr int kVectorBytes = 64;
#else
constexpr int kVectorBytes = 32;
#endif
constexpr int kFloats = kVectorBytes / 4;

template <class T, int W>
struct VectorOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <class T, int W>
using Vector = typename VectorOf<T, W>::type;

using Floats = Vector<float, kFloats>;

inline Floats all(float x) { return x - Floats{}; }  // x + 0 would not be x where that is -0

template <int W, class T>
inline Vector<T, W> load_raw(const T* from) {
  Vector<T, W> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class V, class T>
inline void store_raw(T* to, const V& v) {
  __builtin_memcpy(to, &v, sizeof v);
}

template <int W>
inline Vector<float, W> load(const float* from) {
  return load_raw<W>(from);
}

template <int W>
inline Vector<float, W> load(const uint16_t* from) {
  return (Vector<float, W>)(__builtin_convertvector(load_raw<W>(from), Vector<uint32_t, W>) << 16);
}

// To the nearest bfloat16, ties to even; a NaN stays one.
template <int W>
inline Vector<uint16_t, W> to_bf16(const Vector<float, W>& v) {
  using Bits = Vector<uint32_t, W>;
  const Bits bits = (Bits)v;
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits quiet = (bits >> 16) | 0x40;
  const Bits result = (bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded;
  return __builtin_convertvector(result, Vector<uint16_t, W>);
}

template <int W>
inline void store(float* to, const Vector<float, W>& v) {
  store_raw(to, v);
}

template <int W>
inline void store(uint16_t* to, const Vector<float, W>& v) {
  store_raw(to, to_bf16<W>(v));
}

// sum += a * b, in the sum's register: GCC itself would move sums between registers where many are unrolled.
inline void multiply_add(Floats& sum, Floats a, Floats b) { __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }

// One element in plain loops, which the compiler vectorises itself.
inline float load_one(const float* from) { return *from; }
inline float load_one(const uint16_t* from) { return from_bf16(*from); }
inline void store_one(float* to, float value) { *to = value; }
inline void store_one(uint16_t* to, float value) { *to = to_bf16(value); }

}  // namespace drystone::DRYSTONE_ISA
