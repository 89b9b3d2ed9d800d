// Counting and addressing the steps of a Walk.
#pragma once

#include "kernels/block.h"
#include "kernels/walk.h"

namespace drystone::DRYSTONE_ISA {

inline int64_t count_of(const Walk& walk) {
  int64_t count = 1;
  for (int i = 0; i < walk.axes; i++) count *= walk.sizes[i];
  return count;
}

// The element at which step `index` lies in an operand. The outermost axis needs no division, so one axis needs none.
inline int64_t offset_of(const Walk& walk, int64_t index, int operand) {
  if (walk.axes == 0) return 0;
  int64_t offset = 0;
  for (int i = walk.axes - 1; i > 0; i--) {
    const int64_t rest = index / walk.sizes[i];
    offset += (index - rest * walk.sizes[i]) * walk.strides[operand][i];
    index = rest;
  }
  return offset + index * walk.strides[operand][0];
}

// The elements of a run as float32: where they lie if they are that already, else copied into `buffer`.
inline const float* view(float* buffer, const void* from, DType dtype, int64_t stride, int64_t count) {
  if (dtype == DType::f32 && stride == 1) return static_cast<const float*>(from);
  load(buffer, from, dtype, stride, count);
  return buffer;
}

}  // namespace drystone::DRYSTONE_ISA
