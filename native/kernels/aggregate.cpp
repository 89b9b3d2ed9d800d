// Running sums, products and extremes, extremes and their places, and reductions of integers and truth values, along one axis of dense
// memory.
//
// What runs here in models are masks, ids and pooled positions, some thousand elements: one pass, element by element. A NaN is
// the largest and the smallest number, as in torch; of equals the first counts, but the last in a running extreme.
#include "kernels/aggregate.h"

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

inline void put(Brief& to, double value) { to.bits = to_bf16(static_cast<float>(value)); }
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

template <class T, bool largest>
void running_extreme(const AggregateArgs& args) {
  each_line(args, [&](int64_t begin, int64_t) {
    const T* x = static_cast<const T*>(args.input) + begin;
    T* y = static_cast<T*>(args.output) + begin;
    int64_t best = 0;
    T kept = x[0];
    auto held = number(kept);
    for (int64_t i = 0; i < args.count; i++) {
      const T next = x[i * args.inner];
      const auto seen = number(next);
      const bool better = (seen != seen) | ((held == held) & (largest ? held <= seen : seen <= held));
      best = better ? i : best;
      held = better ? seen : held;
      kept = better ? next : kept;
      y[i * args.inner] = kept;
      args.places[begin + i * args.inner] = best;
    }
  });
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
  if (args.kind == AggregateKind::cummax) return running_extreme<T, true>(args);
  if (args.kind == AggregateKind::cummin) return running_extreme<T, false>(args);
  const bool largest = args.kind == AggregateKind::amax || args.kind == AggregateKind::argmax;
  const bool places = args.kind == AggregateKind::argmax || args.kind == AggregateKind::argmin;
  each_line(args, [&](int64_t begin, int64_t line) {
    const T* x = static_cast<const T*>(args.input) + begin;
    int64_t best = 0;
    for (int64_t i = 1; i < args.count; i++) {
      const auto held = number(x[best * args.inner]), seen = number(x[i * args.inner]);
      if (held == held && (seen != seen || (largest ? held < seen : seen < held))) best = i;
    }
    if (places)
      static_cast<int64_t*>(args.output)[line] = best;
    else
      static_cast<T*>(args.output)[line] = x[best * args.inner];
  });
}

}  // namespace

void aggregate(const AggregateArgs& args) {
  switch (args.kind) {
    case AggregateKind::cumsum:
    case AggregateKind::cumprod:
      if (args.dtype == DType::f32) return accumulate<float, double>(args);
      if (args.dtype == DType::bf16) return accumulate<Brief, double>(args);
      return accumulate<int64_t, uint64_t>(args);
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
