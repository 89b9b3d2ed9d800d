// What lies where: dtype, format, shape and strides of a tensor. No data, no Python, no SIMD.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/format.h"
#include "core/quantisation.h"

namespace drystone {

using Dims = std::vector<int64_t>;

struct TensorDesc {
  DType dtype = DType::f32;
  Format format = Format::plain;
  Dims shape;       // logical order: N, C, spatial…
  Dims strides;     // in elements, one a logical axis; in a blocked format strides[1] leads to the next block of channels
  float scale = 1;  // of s8 and u8, which stand for (code - zero_point) * scale
  int32_t zero_point = 0;

  // Dense memory of this shape. Throws std::invalid_argument for a rank the format does not have, negative sizes or overflow.
  static TensorDesc dense(DType dtype, Format format, Dims shape);

  int64_t rank() const { return static_cast<int64_t>(shape.size()); }
  int64_t numel() const;               // logical elements
  int64_t bytes() const;               // from the first byte to one past the last, the padding of blocks included
  int64_t blocks(int64_t axis) const;  // the size of an axis as it lies: of channels in blocks, how many blocks
  int64_t padded_channels() const;
  bool is_dense() const;     // no holes: the strides are those of dense()
  bool has_padding() const;  // a blocked format whose channels do not fill the last block
  Affine affine() const { return {scale, static_cast<float>(1.0 / static_cast<double>(scale)), static_cast<float>(zero_point)}; }
  bool is_quantised() const { return scale != 1 || zero_point != 0; }
  std::string str() const;

  // With this quantisation. Throws std::invalid_argument for a dtype that has none, a scale that is not a positive finite number, and a
  // zero point that is no code.
  TensorDesc quantised(float scale, int32_t zero_point) const;
};

// Throws std::invalid_argument that begins with `name` for other dtypes than f32 and bf16.
void require_float(DType dtype, const std::string& name);

// The same bytes mean the same tensor under both (a reorder between them is a no-op), as for (N, C, 1, 1) in plain and channels_last.
bool same_memory(const TensorDesc& a, const TensorDesc& b);

// The axes as they lie in memory, outermost first: a blocked format has one more axis than its shape (the block).
struct Physical {
  Dims sizes, strides;
};
Physical physical(const TensorDesc& desc);

}  // namespace drystone
