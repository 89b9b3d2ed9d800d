// The softmax of attention, by the tile: scores of R rows with a block of keys become weights relative to a base of the row.
//
// Scores are in units of log2, in which e^x is 2^x. The base is a maximum of the row's scores, but not always the latest: it rises, and
// what was summed shrinks, only when the maximum outgrows it by `margin`. So weights may be as large as 2^margin, as float32 and bfloat16
// don't mind, and mostly the weights of a block wait for nothing that is computed from all of its scores.
#pragma once

#include "kernels/attention_rows.h"
#include "kernels/attention_tiles.h"

namespace drystone::DRYSTONE_ISA {

constexpr float log2_e = 1.44269504f, margin = 8.0f;
constexpr float lowest_base = -__FLT_MAX__;  // of a row that has seen nothing: -infinity is below it, so that hidden keys weigh 0

struct Largest {
  static inline Floats of(Floats a, Floats b) { return most_or(a, b); }
};
struct Sum {
  static inline Floats of(Floats a, Floats b) { return a + b; }
};

// Reduces vectors of `rows` (a power of two) by halves of D lanes until lane i (kFloats / rows) holds all of row i.
template <class Reduction, int Rows, int D>
inline void reduce_halves(Floats* rows) {
  constexpr int half = Rows > 1 ? Rows / 2 : 1;
#pragma GCC unroll 8
  for (int i = 0; i < half; i++) {
    Floats other = rows[Rows > 1 ? i + half : i];
    exchange<D>(rows[i], other, Indices<__integer_pack(kFloats)...>());
    rows[i] = Reduction::of(rows[i], other);
  }
  if constexpr (D > 1) reduce_halves<Reduction, half, D / 2>(rows);
}

template <int Step, int... I>
inline Floats every(Floats x, Indices<I...>) {
  return __builtin_shufflevector(x, x, (I * Step % kFloats)...);
}

// Lane r: the reduction of row r's `size` elements, rows `stride` apart, r < R. The other lanes hold some row's.
template <class Reduction, int R>
inline Floats reduce_rows(const float* from, int64_t stride, int64_t size) {
  constexpr int padded = R > 4 ? 8 : R > 1 ? 4 : 1;
  Floats rows[padded];
#pragma GCC unroll 8
  for (int r = 0; r < padded; r++) {
    const float* row = from + (r < R ? r : 0) * stride;
    rows[r] = load<kFloats>(row);
#pragma GCC unroll 8
    for (int64_t i = kFloats; i < size; i += kFloats) rows[r] = Reduction::of(load<kFloats>(row + i), rows[r]);
  }
  reduce_halves<Reduction, padded, kFloats / 2>(rows);
  return every<kFloats / padded>(rows[0], Indices<__integer_pack(kFloats)...>());
}

// What R rows of a tile have summed. Of `bases` there are kFloats, of which R count.
struct Sums {
  float *bases, *output, *weights;  // weights: kFloats partial sums a row
  int64_t width;                    // of a row of output
};

inline void clear_sums(const Sums& sums) {
  for (int64_t r = 0; r < kTileRows; r++) store_raw(sums.weights + r * kFloats, Floats{});
  store_raw(sums.bases, all(lowest_base));
}

// Raises the bases of rows that scores (still to be multiplied by scale) have outgrown. `opens`: nothing has been summed yet.
template <int R>
inline void raise(const Sums& sums, const float* scores, float scale, bool opens) {
  const Floats highest = reduce_rows<Largest, R>(scores, kKeys, kKeys) * scale, bases = load<kFloats>(sums.bases);
  const auto outgrown = highest > bases + margin;
  if (!any(outgrown)) return;
  const Floats raised = outgrown ? highest : bases;
  store_raw(sums.bases, raised);
  if (opens) return;
  float factors[kFloats];
  store_raw(factors, exp2_below(most_or(all(-150.0f), bases - raised)));
  for (int r = 0; r < R; r++) {
    store_raw(sums.weights + r * kFloats, load<kFloats>(sums.weights + r * kFloats) * factors[r]);
    float* output = sums.output + r * sums.width;
    for (int64_t j = 0; j < sums.width; j += kFloats) store_raw(output + j, load<kFloats>(output + j) * factors[r]);
  }
}

// 2^x for scores less their base, -infinity included, and stored as units. Returns what is summed.
inline Floats weigh(float* to, const float* scores, float scale, float base) {
  Floats total{};
#pragma GCC unroll 8
  for (int64_t i = 0; i < kKeys; i += kFloats) {
    const Floats weight = exp2_below(most_or(all(-150.0f), fma(load<kFloats>(scores + i), all(scale), all(-base))));
    store_raw(to + i, weight);
    total += weight;
  }
  return total;
}

#ifdef __AVX512F__
inline Floats weigh(uint32_t* to, const float* scores, float scale, float base) {
  Floats total{};
#pragma GCC unroll 8
  for (int64_t i = 0; i < kKeys; i += 2 * kFloats) {
    const Floats low = exp2_roughly(fma(load<kFloats>(scores + i), all(scale), all(-base)));
    const Floats high = exp2_roughly(fma(load<kFloats>(scores + i + kFloats), all(scale), all(-base)));
    const __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    __builtin_memcpy(to + i / 2, &pairs, sizeof pairs);
    total += low;
    total += high;
  }
  return total;
}
#endif

// Rows on their way from scores to weights, one by one. weights may be scores.
template <class Unit>
struct Weighing {
  const float* scores;
  Unit* weights;
  float scale;  // by which the scores are still to be multiplied
  Sums sums;
  int64_t rows, done = 0;

  inline void one() {
    if (done >= rows) return;
    float* sum = sums.weights + done * kFloats;
    const Floats added = weigh(weights + done * kKeys / kElements<Unit>, scores + done * kKeys, scale, sums.bases[done]);
    store_raw(sum, load<kFloats>(sum) + added);
    done++;
  }
  inline void rest() {
    while (done < rows) one();
  }
};

}  // namespace drystone::DRYSTONE_ISA
