// Which queries are the rows of a chunk of attention, and what their masks add.
#pragma once

#include "kernels/attention.h"
#include "kernels/block.h"

namespace drystone::DRYSTONE_ISA {

constexpr int64_t kKeys = attention_keys;

// A run of rows: the queries from `first` on, of all heads that read the same keys.
struct Rows {
  int64_t batch, key_head, first, count;
};

struct Row {
  int64_t head, position;
};
inline Row row_of(const AttentionArgs& args, const Rows& rows, int64_t index) {
  const int64_t row = rows.first + index;
  return {rows.key_head * (args.heads / args.key_heads) + row / args.queries, row % args.queries};
}

inline Row next(const AttentionArgs& args, Row row) {
  return row.position + 1 < args.queries ? Row{row.head, row.position + 1} : Row{row.head + 1, 0};
}

// The last key that a causal mask leaves to any of the rows [first, first + count).
inline int64_t last_key(const AttentionArgs& args, const Rows& rows, int64_t first, int64_t count) {
  const Row begin = row_of(args, rows, first), end = row_of(args, rows, first + count - 1);
  return begin.head == end.head ? end.position : args.queries - 1;
}

// Mask of one row over `count` keys from `key` on, to be added: kKeys floats, in `buffer` unless it lies so already. Null without a mask.
inline const float* mask_row(const AttentionArgs& args, int64_t batch, const Row& row, int64_t key, int64_t count, float* buffer) {
  const int64_t* strides = args.mask_strides;
  const int64_t offset = batch * strides[0] + row.head * strides[1] + row.position * strides[2] + key * strides[3];
  if (!args.mask) return nullptr;
  const void* from = advance(args.mask, offset, args.mask_dtype);
  if (args.mask_dtype == DType::f32 && strides[3] == 1 && count == kKeys) return static_cast<const float*>(from);
  if (args.mask_dtype == DType::boolean)
    for (int64_t i = 0; i < count; i++) buffer[i] = static_cast<const uint8_t*>(from)[i * strides[3]] ? 0.0f : -infinity;
  else
    load(buffer, from, args.mask_dtype, strides[3], count);
  return buffer;
}

// Whether all that the mask adds is 0, or it hides no key: then nothing reads it. As padding masks are in a batch of equal lengths.
// A mask that hides something tells so soon.
template <class T>
bool is_idle(const AttentionArgs& args, T shown, T ignored) {
  const int64_t sizes[] = {args.batch, args.heads, args.queries, args.keys}, *strides = args.mask_strides;
  int64_t counts[4];
  for (int i = 0; i < 4; i++) counts[i] = strides[i] == 0 ? 1 : sizes[i];
  for (int64_t b = 0; b < counts[0]; b++)
    for (int64_t h = 0; h < counts[1]; h++)
      for (int64_t q = 0; q < counts[2]; q++) {
        const T* row = static_cast<const T*>(args.mask) + b * strides[0] + h * strides[1] + q * strides[2];
        T differs = 0;
#pragma omp simd reduction(| : differs)
        for (int64_t k = 0; k < counts[3]; k++) differs |= (row[k * strides[3]] ^ shown) & ~ignored;
        if (differs) return false;
      }
  return true;
}

inline bool mask_is_idle(const AttentionArgs& args) {
  if (!args.mask) return true;
  switch (args.mask_dtype) {
    case DType::boolean: return is_idle<uint8_t>(args, 1, 0);
    case DType::bf16: return is_idle<uint16_t>(args, 0, 0x8000);  // of either sign
    default: return is_idle<uint32_t>(args, 0, 0x80000000);
  }
}

}  // namespace drystone::DRYSTONE_ISA
