// What the copy kernel does: a list of boxes, each a loop nest that moves elements from affine or tabled input offsets to affine
// output offsets, or fills. steps/copy.cpp makes the boxes. Offsets and strides count elements.
#pragma once

#include "core/dtype.h"

namespace drystone {

constexpr int kCopyMaxRank = 16;
constexpr int64_t kCopyHole = INT64_MIN;  // in a table: no input here, the box's value is written

struct CopyDim {
  int64_t size, in_stride, out_stride;
  const int64_t* table;  // input offset of each index, in place of in_stride; null for most
};

// The last dim is the inner loop, the one before it (which never has a table) the loop around it.
enum class CopyMode : uint8_t {
  fill,       // the box's value everywhere
  rows,       // both inner strides are 1
  transpose,  // the last dim has out_stride 1, the one before it in_stride 1
  gather,     // the last dim has a table
  strided,    // anything else
};

struct CopyBox {
  CopyMode mode;
  int rank;  // 2 at least
  int64_t in_offset, out_offset;
  uint64_t value;  // bits of an output element
  CopyDim dims[kCopyMaxRank];
};

struct CopyArgs {
  const void* input;
  void* output;
  DType from, to;  // the same, or f32 and bf16
  const CopyBox* boxes;
  int64_t count;
  int threads;
};

}  // namespace drystone
