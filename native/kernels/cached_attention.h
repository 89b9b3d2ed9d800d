// Arguments of the kernel for attention over the pages of a cache. Sizes and strides count elements unless said; the last axis of every
// operand is contiguous. How a page lies in memory: core/cache_pages.h.
#pragma once

#include <cstddef>

#include "core/dtype.h"

namespace drystone {

// Of a page, in bytes: from head to head, and within a head to the values and to the scales.
struct PageOffsets {
  int64_t head, values, scales;
};

struct CachedAttentionArgs {
  const void* query;
  const void* key;  // new positions, to be written; null where there are none
  const void* value;
  const void* cosines;  // by which queries and keys are turned first (kernels/rotary.h); null where they are not
  const void* sines;
  const int64_t* pages;    // addresses, those of a batch row `capacity` apart; the ones that are read or written are pages
  const int64_t* lengths;  // valid positions of each batch row before this call
  const void* sinks;       // a score more a head; may be null
  const float* bias;       // (heads, bias_size), added to scores; may be null
  void* output;
  DType dtype, sinks_dtype;  // of query, key, value and output: f32 or bf16
  DType cosines_dtype, sines_dtype;
  int64_t cosines_strides[2], sines_strides[2];  // batch, position
  DType page_dtype;                              // f32, bf16 or s8
  PageOffsets offsets;
  bool pairs;                                              // queries and pages are bfloat16, of which the CPU multiplies pairs
  int64_t batch, heads, key_heads, queries, depth, width;  // depth: of query and key; width: of value and output
  int64_t capacity;                                        // pages of a batch row
  int64_t query_strides[3], key_strides[3], value_strides[3], output_strides[3];  // batch, head, position
  float scale, softcap;                                                           // softcap: 0 for none
  int64_t window;                                                                 // 0: none
  int64_t bias_size;
  bool by_distance;  // the bias's last column is of the position of the query, not of its own index
  bool grows;        // positions after `lengths` are read: as many as queries
  bool causal;
  int64_t chunk;       // rows (queries of the heads that share keys) that are taken at once
  int64_t parts;       // in which the work is divided
  std::byte* scratch;  // scratch_bytes for each thread, then partial_bytes for each part twice; aligned to 64 bytes
  int64_t scratch_bytes, partial_bytes;
  int threads;
};

}  // namespace drystone
