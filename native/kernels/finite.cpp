// Whether every element of dense f32 memory is finite: x - x is 0 for a finite x and NaN for any other.
//
// 150 000 elements (an image of 224 x 224) take 5 us from L2, one thread.
#include "kernels/finite.h"

namespace drystone::DRYSTONE_ISA {

void finite(const FiniteArgs& args) {
  constexpr int64_t lanes = 64;
  float sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= args.count; i += lanes)
#pragma omp simd
    for (int64_t lane = 0; lane < lanes; lane++) sums[lane] += args.data[i + lane] - args.data[i + lane];
  float sum = 0.0f;
  for (; i < args.count; i++) sum += args.data[i] - args.data[i];
  for (int64_t lane = 0; lane < lanes; lane++) sum += sums[lane];
  *args.result = sum == 0.0f;
}

}  // namespace drystone::DRYSTONE_ISA
