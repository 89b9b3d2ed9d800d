// The depthwise convolution of codes: in words by VPMADDWD where the CPU lacks VNNI.
#include "kernels/depthwise_codes_tile.h"

namespace drystone::DRYSTONE_ISA {

namespace {

struct Words {
  static Ints padding(Ints bytes) { return bytes & 0x00ff00ff; }

  static inline __attribute__((always_inline)) void add(Ints& sum, Ints x, Ints weights) {
#ifdef __AVX512F__
    sum += (Ints)_mm512_madd_epi16((__m512i)x, (__m512i)weights);
#else
    sum += (Ints)_mm256_madd_epi16((__m256i)x, (__m256i)weights);
#endif
  }

  template <class Column, class Put>
  static void spread(const Column& column, int64_t at, int64_t entries, int64_t step, int64_t dilation, const Put& put) {
    Ints first = column(at);
    for (int64_t e = 0; e < entries; e++, at += step) {
      const Ints second = column(at + dilation);
      const Pairs pairs = interleaved(first, second);
      const Ints parts[] = {interleaved_low(pairs.low, Ints{}), interleaved_high(pairs.low, Ints{}), interleaved_low(pairs.high, Ints{}),
                            interleaved_high(pairs.high, Ints{})};
      put(parts);
      first = step == dilation ? second : column(at + step);
    }
  }
};

}  // namespace

void depthwise_codes(const DepthwiseCodesArgs& args) { return args.dot ? depthwise_codes_dot(args) : convolve_codes<Words>(args); }

}  // namespace drystone::DRYSTONE_ISA
