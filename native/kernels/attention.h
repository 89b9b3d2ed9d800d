// Arguments of the attention kernel. Sizes and strides count elements; the last axis of every operand but the mask is contiguous.
#pragma once

#include <cstddef>

#include "core/dtype.h"

namespace drystone {

constexpr int64_t attention_keys = 64;  // a block of keys

struct AttentionArgs {
  const void* query;
  const void* key;
  const void* value;
  const void* mask;  // added to the scores, or boolean: false hides a key. Null where there is none
  void* output;
  DType mask_dtype;
  DType dtype;                                                                    // of query, key, value and output: f32 or bf16
  bool pairs;                                                                     // the CPU multiplies pairs of bfloat16
  int64_t batch, heads, key_heads, queries, keys, depth, width;                   // depth: of query and key; width: of value and output
  int64_t query_strides[3], key_strides[3], value_strides[3], output_strides[3];  // batch, head, position
  int64_t mask_strides[4];                                                        // batch, head, query, key
  float scale;
  bool causal;
  float hidden;        // what a row gives of which every key is hidden: 0 or NaN
  int64_t chunk;       // rows (queries of the heads that share keys) that a thread takes at once
  std::byte* scratch;  // scratch_bytes for each thread, aligned to 64 bytes
  int64_t scratch_bytes;
  int threads;
};

}  // namespace drystone
