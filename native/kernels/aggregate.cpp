// Running sums, products and extremes, extremes and their places, and reductions of integers and truth values, along one axis of dense
// memory.
//
// What runs here in models are masks, ids and pooled positions, some thousand elements: one pass, element by element; extremes by
// pieces of a row, or lines side by side. A NaN is the largest and the smallest number, as in torch; of equals the first counts, but
// the last in a running extreme.
#include "kernels/aggregate.h"

#include <cmath>

#include "kernels/block.h"

namespace drystone::DRYSTONE_ISA {

namespace {

// Calls body(first element, outputs' index) for every line of the input.
template <class Body>
void each_line(const AggregateArgs& args, Body body) {
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t line = 0; line < args.outer * args.inner; line++)
    body(line / args.inner * args.count * args.inner + line % args.inner, line);
}

inline void put(Brief& to, float value) { to.bits = to_bf16(value); }
inline void put(Brief& to, double value) { put(to, static_cast<float>(value)); }
template <class T, class Total>
inline void put(T& to, Total value) {
  to = static_cast<T>(value);
}

template <class T, class Total>
void accumulate(const AggregateArgs& args) {
  const bool sums = args.kind == AggregateKind::cumsum;
  each_line(args, [&](int64_t begin, int64_t) {
    const T* x = static_cast<const T*>(args.input) + begin;
    T* y = static_cast<T*>(args.output) + begin;
    Total total = sums ? 0 : 1;
    if (sums)
      for (int64_t i = 0; i < args.count; i++) put(y[i * args.inner], total += static_cast<Total>(number(x[i * args.inner])));
    else
      for (int64_t i = 0; i < args.count; i++) put(y[i * args.inner], total *= static_cast<Total>(number(x[i * args.inner])));
  });
}

// log(sum(exp(x))) up to each element: the largest one, and the sum of the exponentials of what all are below it.
template <class T>
void accumulate_exponentials(const AggregateArgs& args) {
  each_line(args, [&](int64_t begin, int64_t) {
    const T* x = static_cast<const T*>(args.input) + begin;
    T* y = static_cast<T*>(args.output) + begin;
    float largest = -INFINITY;
    double total = 0;
    for (int64_t i = 0; i < args.count; i++) {
      const float next = number(x[i * args.inner]);
      if (next == largest) {
        total += 1;
      } else if (next < largest) {
        total += std::exp(next - largest);
      } else if (largest == largest) {  // greater, or the first NaN, which all that follow are then
        total = total * std::exp(largest - next) + 1;
        largest = next;
      }
      put(y[i * args.inner], std::isinf(largest) ? largest : largest + std::log(static_cast<float>(total)));
    }
  });
}

// What an element is kept as, and its way back: structures do not become vectors.
inline uint16_t plain(const Brief& x) { return x.bits; }
template <class T>
inline T plain(const T& x) {
  return x;
}
inline void copy(Brief& to, uint16_t from) { to.bits = from; }
template <class T>
inline void copy(T& to, T from) {
  to = from;
}

// Whether `seen` takes the place of `held`; of equals the last does if `last`.
template <bool largest, bool last, class N>
inline bool takes_over(N held, N seen) {
  if constexpr (last) return (seen != seen) | ((held == held) & (largest ? held <= seen : seen <= held));
  return (held == held) & ((seen != seen) | (largest ? held < seen : seen < held));
}

// The extreme of a row without its place.
template <class T, bool largest>
T value_of_row(const T* x, int64_t count) {
  auto held = number(x[0]);
  int spoiled = 0;
  if constexpr (largest) {
#pragma omp simd reduction(max : held) reduction(| : spoiled)
    for (int64_t i = 0; i < count; i++) {
      const auto seen = number(x[i]);
      held = held < seen ? seen : held;
      spoiled |= seen != seen;
    }
  } else {
#pragma omp simd reduction(min : held) reduction(| : spoiled)
    for (int64_t i = 0; i < count; i++) {
      const auto seen = number(x[i]);
      held = seen < held ? seen : held;
      spoiled |= seen != seen;
    }
  }
  for (int64_t i = 0; spoiled && i < count; i++)
    if (number(x[i]) != number(x[i])) return x[i];
  T value;
  put(value, held);
  return value;
}

// Along a row, by pieces: in most of them nothing takes over, which is seen of all their elements at once.
template <class T, bool largest, bool running>
void extreme_of_row(const T* x, int64_t count, T* y, int64_t* places) {
  if (!running && !places) {
    *y = value_of_row<T, largest>(x, count);
    return;
  }
  constexpr int64_t piece = !running ? 64 : sizeof(T) == 2 ? 32 : 16;  // a vector of AVX-512, at least
  int64_t best = 0;
  auto kept = plain(x[0]);
  auto held = number(x[0]);
  for (int64_t begin = 0; begin < count; begin += piece) {
    const int64_t end = least(begin + piece, count);
    int found = 0;
#pragma omp simd reduction(| : found)
    for (int64_t i = begin; i < end; i++) found |= takes_over<largest, running>(held, number(x[i]));
    for (int64_t i = begin; found && i < end; i++) {
      const auto seen = number(x[i]);
      const bool better = takes_over<largest, running>(held, seen);
      best = better ? i : best;
      kept = better ? plain(x[i]) : kept;
      held = better ? seen : held;
      if constexpr (running) {
        copy(y[i], kept);
        places[i] = best;
      }
    }
    if (running && !found) {
#pragma omp simd
      for (int64_t i = begin; i < end; i++) copy(y[i], kept);
#pragma omp simd
      for (int64_t i = begin; i < end; i++) places[i] = best;
    }
  }
  if constexpr (!running) *places = best;
}

constexpr int64_t abreast = 64;

// Of up to `abreast` neighbouring lines, side by side.
template <class T, bool largest, bool running>
void extremes_of_lines(const T* x, int64_t count, int64_t inner, int64_t lines, T* y, int64_t* places) {
  using N = decltype(number(T()));
  N held[abreast];
  decltype(plain(T())) kept[abreast];
  int64_t best[abreast];
  for (int64_t l = 0; l < lines; l++) {
    kept[l] = plain(x[l]);
    held[l] = number(x[l]);
    best[l] = 0;
  }
  for (int64_t i = 0; i < count; i++, x += inner) {
#pragma omp simd
    for (int64_t l = 0; l < lines; l++) {
      const N seen = number(x[l]);
      const bool better = takes_over<largest, running>(held[l], seen);
      held[l] = better ? seen : held[l];
      kept[l] = better ? plain(x[l]) : kept[l];
      best[l] = better ? i : best[l];
    }
    if (running) {
      for (int64_t l = 0; l < lines; l++) copy(y[i * inner + l], kept[l]);
      for (int64_t l = 0; l < lines; l++) places[i * inner + l] = best[l];
    }
  }
  if (running) return;
  for (int64_t l = 0; y && l < lines; l++) copy(y[l], kept[l]);
  for (int64_t l = 0; places && l < lines; l++) places[l] = best[l];
}

template <class T, bool largest, bool running>
void extremes(const AggregateArgs& args, T* values, int64_t* places) {
  const int64_t groups = ceil_div(args.inner, abreast), count = args.count;
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t item = 0; item < args.outer * groups; item++) {
    const int64_t outer = item / groups, line = item % groups * abreast;
    const int64_t from = outer * count * args.inner + line, to = running ? from : outer * args.inner + line;
    const T* x = static_cast<const T*>(args.input) + from;
    T* y = values ? values + to : nullptr;
    int64_t* at = places ? places + to : nullptr;
    if (args.inner == 1)
      extreme_of_row<T, largest, running>(x, count, y, at);
    else
      extremes_of_lines<T, largest, running>(x, count, args.inner, least(abreast, args.inner - line), y, at);
  }
}

void sum(const AggregateArgs& args) {
  each_line(args, [&](int64_t begin, int64_t line) {
    const auto* x = static_cast<const int64_t*>(args.input) + begin;
    uint64_t total = 0;
    for (int64_t i = 0; i < args.count; i++) total += static_cast<uint64_t>(x[i * args.inner]);
    static_cast<int64_t*>(args.output)[line] = static_cast<int64_t>(total);
  });
}

// any: whether one element is true; all: whether none is false.
void find(const AggregateArgs& args, bool wanted) {
  each_line(args, [&](int64_t begin, int64_t line) {
    const auto* x = static_cast<const bool*>(args.input) + begin;
    bool found = false;
    for (int64_t i = 0; i < args.count; i++) found |= x[i * args.inner] == wanted;
    static_cast<bool*>(args.output)[line] = wanted ? found : !found;
  });
}

template <class T>
void extreme(const AggregateArgs& args) {
  T* values = static_cast<T*>(args.output);
  int64_t* found = static_cast<int64_t*>(args.output);
  switch (args.kind) {
    case AggregateKind::cummax: return extremes<T, true, true>(args, values, args.places);
    case AggregateKind::cummin: return extremes<T, false, true>(args, values, args.places);
    case AggregateKind::amax: return extremes<T, true, false>(args, values, nullptr);
    case AggregateKind::amin: return extremes<T, false, false>(args, values, nullptr);
    case AggregateKind::argmax: return extremes<T, true, false>(args, nullptr, found);
    default: return extremes<T, false, false>(args, nullptr, found);
  }
}

}  // namespace

void aggregate(const AggregateArgs& args) {
  switch (args.kind) {
    case AggregateKind::cumsum:
    case AggregateKind::cumprod:
      if (args.dtype == DType::f32) return accumulate<float, double>(args);
      if (args.dtype == DType::bf16) return accumulate<Brief, double>(args);
      return accumulate<int64_t, uint64_t>(args);
    case AggregateKind::logcumsumexp:
      return args.dtype == DType::f32 ? accumulate_exponentials<float>(args) : accumulate_exponentials<Brief>(args);
    case AggregateKind::sum: return sum(args);
    case AggregateKind::any: return find(args, true);
    case AggregateKind::all: return find(args, false);
    default: break;
  }
  switch (args.dtype) {
    case DType::f32: return extreme<float>(args);
    case DType::bf16: return extreme<Brief>(args);
    case DType::s64: return extreme<int64_t>(args);
    case DType::s32: return extreme<int32_t>(args);
    case DType::s16: return extreme<int16_t>(args);
    case DType::s8: return extreme<int8_t>(args);
    default: return extreme<uint8_t>(args);
  }
}

}  // namespace drystone::DRYSTONE_ISA
