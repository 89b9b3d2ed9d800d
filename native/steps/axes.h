// How the operands of a kernel walk one common index space: for each axis of it a size, and a stride for each operand.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace drystone {

// Strides of each logical axis of `desc`, with the channels as two axes (blocks of `block` channels, channels in a block)
// where block > 1. An axis of size 1 has stride 0. Throws std::invalid_argument where no strides say how the channels lie.
Dims strides_with_block(const TensorDesc& desc, int64_t block);

// The sizes that go with them: `shape` with axis 1 split where block > 1, which must divide it.
Dims sizes_with_block(const Dims& shape, int64_t block);

// A block in which both can be walked, where there is one: a's or b's, 1 where neither has blocks.
int64_t common_block(const TensorDesc& a, const TensorDesc& b);

struct Axis {
  int64_t size;
  Dims strides;   // one an operand
  int group = 0;  // axes of different groups are never merged
};

// Drops axes of size 1 and merges neighbours that every operand walks as one; the order stays.
std::vector<Axis> collapse(const std::vector<Axis>& axes);

// f32 or bf16 of non-negative strides, or std::invalid_argument that begins with `name`.
void check_operand(const TensorDesc& desc, const std::string& name);
void check_operand_or_codes(const TensorDesc& desc, const std::string& name);  // or s8 or u8

}  // namespace drystone
