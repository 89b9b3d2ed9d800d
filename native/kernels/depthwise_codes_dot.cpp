// The depthwise convolution of codes in AVX-512 VNNI or AVX-VNNI, four taps at once.
#include "kernels/codes.h"
#include "kernels/depthwise_codes.h"
#include "kernels/instructions.h"
#include "kernels/interleave.h"
#include "kernels/vnni.h"

DRYSTONE_FROM_HERE_ON_VNNI

#include "kernels/depthwise_codes_tile.h"

namespace drystone::DRYSTONE_ISA {

namespace {

struct Dot {
  static Ints padding(Ints bytes) { return bytes; }

  static inline __attribute__((always_inline)) void add(Ints& sum, Ints x, Ints weights) { sum = add_fours(sum, x, weights); }

  template <class Column, class Put>
  static void spread(const Column& column, int64_t at, int64_t entries, int64_t step, int64_t dilation, const Put& put) {
    const auto both = [&](int64_t x) __attribute__((always_inline)) { return interleaved(column(x), column(x + dilation)); };
    const auto fours = [&](const Pairs& a, const Pairs& b) __attribute__((always_inline)) {
      const Ints parts[] = {pairs_low(a.low, b.low), pairs_high(a.low, b.low), pairs_low(a.high, b.high), pairs_high(a.high, b.high)};
      put(parts);
    };
    if (step == dilation) {
      Ints last = column(at + 2 * dilation);
      const Ints middle = column(at + dilation);
      Pairs first = interleaved(column(at), middle), second = interleaved(middle, last);
      for (int64_t e = 0; e < entries; e++, at += step) {
        const Ints next = column(at + 3 * dilation);
        const Pairs third = interleaved(last, next);
        fours(first, third);
        first = second;
        second = third;
        last = next;
      }
    } else if (step == 2 * dilation) {
      Pairs first = both(at);
      for (int64_t e = 0; e < entries; e++, at += step) {
        const Pairs second = both(at + step);
        fours(first, second);
        first = second;
      }
    } else {
      for (int64_t e = 0; e < entries; e++, at += step) fours(both(at), both(at + 2 * dilation));
    }
  }
};

}  // namespace

void depthwise_codes_dot(const DepthwiseCodesArgs& args) { convolve_codes<Dot>(args); }

}  // namespace drystone::DRYSTONE_ISA
