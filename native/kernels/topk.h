// Arguments of the kernel for the k largest or smallest elements along an axis, and how it goes about a row.
#pragma once

#include "core/dtype.h"
#include "kernels/walk.h"

namespace drystone {

// Where the bound comes from, above which no element of a row is looked at.
enum class TopkBound : uint8_t {
  none,    // the whole row is sorted
  exact,   // found in the whole row
  blocks,  // the k-th least of the minima of blocks: k blocks have an element as small
  sample,  // a low element of a sample, which k elements are almost surely below
};

constexpr int64_t topk_spare_items = 8;  // memory after the candidates

struct TopkArgs {
  DType dtype;  // any but boolean
  bool largest, sorted;
  const void* input;
  void* values;
  int64_t* indices;
  Walk rows;                      // all axes but the one looked along: strides of the input, then of both outputs
  int64_t count, k;               // elements of a row, at least 1, below 2^32; 1 <= k <= count
  int64_t stride, result_stride;  // along a row, in elements
  int64_t gang;                   // rows that are gathered at once, where their elements do not lie together
  TopkBound bound;
  int64_t representatives;  // elements, minima of blocks, or samples that the bound is found among
  int64_t rank, slack;      // which of the representatives, from 1, is the bound; so many more may be below it
  int64_t block;            // elements
  int64_t candidates;       // that there may be in a row
  int threads;              // over rows, or over the blocks of each row where there are fewer rows than threads
  char* scratch;            // `scratch_bytes` for each thread, aligned to 64
  int64_t scratch_bytes;
};

}  // namespace drystone
