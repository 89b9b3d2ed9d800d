#include "core/tensor.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <utility>

namespace drystone {

static int64_t multiply(int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw std::invalid_argument("tensor size overflows 64 bits");
  return product;
}

static int64_t add(int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) throw std::invalid_argument("tensor size overflows 64 bits");
  return sum;
}

TensorDesc TensorDesc::dense(DType dtype, Format format, Dims shape) {
  TensorDesc desc{dtype, format, std::move(shape), {}};
  const int64_t rank = desc.rank();
  if (format != Format::plain && (rank < 3 || rank > 5))
    throw std::invalid_argument(std::string(format.name) + " needs rank 3 to 5, not " + std::to_string(rank));
  for (int64_t size : desc.shape)
    if (size < 0) throw std::invalid_argument("negative size in a shape");
  desc.strides.resize(rank);
  const Dims axes = axes_in_memory(format, rank);
  int64_t step = format.block;
  for (auto axis = axes.rbegin(); axis != axes.rend(); axis++) {
    desc.strides[*axis] = step;
    step = multiply(step, std::max<int64_t>(desc.blocks(*axis), 1));
  }
  multiply(step, size_of(dtype));
  return desc;
}

int64_t TensorDesc::numel() const {
  int64_t count = 1;
  for (int64_t size : shape) count = multiply(count, size);
  return count;
}

int64_t TensorDesc::blocks(int64_t axis) const {
  return axis == 1 ? shape[1] / format.block + (shape[1] % format.block != 0) : shape[axis];
}

int64_t TensorDesc::padded_channels() const { return rank() > 1 ? blocks(1) * format.block : 1; }

Physical physical(const TensorDesc& desc) {
  Physical p;
  for (int64_t axis : axes_in_memory(desc.format, desc.rank())) {
    p.sizes.push_back(desc.blocks(axis));
    p.strides.push_back(desc.strides[axis]);
  }
  if (desc.format.block > 1) {
    p.sizes.push_back(desc.format.block);
    p.strides.push_back(1);
  }
  return p;
}

int64_t TensorDesc::bytes() const {
  if (numel() == 0) return 0;
  const Physical p = physical(*this);
  int64_t last = 0;
  for (size_t i = 0; i < p.sizes.size(); i++) last = add(last, multiply(p.sizes[i] - 1, p.strides[i]));
  return multiply(add(last, 1), size_of(dtype));
}

bool TensorDesc::is_dense() const { return strides == dense(dtype, format, shape).strides; }

bool TensorDesc::has_padding() const { return format.block > 1 && padded_channels() != shape[1]; }

std::string TensorDesc::str() const {
  std::string text = std::string(name_of(dtype)) + " " + format.name + " [";
  for (size_t i = 0; i < shape.size(); i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  text += is_dense() ? "]" : "] strided";
  if (!is_quantised()) return text;
  char affine[64];
  std::snprintf(affine, sizeof affine, " scale %.9g zero point %d", static_cast<double>(scale), static_cast<int>(zero_point));
  return text + affine;
}

TensorDesc TensorDesc::quantised(float scale, int32_t zero_point) const {
  TensorDesc desc = *this;
  desc.scale = scale;
  desc.zero_point = zero_point;
  if (!desc.is_quantised()) return desc;
  if (!is_code(dtype)) throw std::invalid_argument(std::string("scale and zero point are for s8 and u8, not ") + name_of(dtype));
  if (!(scale > 0) || !std::isfinite(scale))
    throw std::invalid_argument("a scale is a positive finite number, not " + std::to_string(scale));
  if (zero_point < lowest_code(dtype) || zero_point > highest_code(dtype))
    throw std::invalid_argument("zero point " + std::to_string(zero_point) + " is no " + name_of(dtype));
  return desc;
}

void require_float(DType dtype, const std::string& name) {
  if (!is_float(dtype)) throw std::invalid_argument(name + " is " + name_of(dtype) + "; f32 and bf16 are supported");
}

// Size and stride of each logical axis; of channels in blocks, the axis they form where they follow each other densely.
static std::vector<std::pair<int64_t, int64_t>> walk(const TensorDesc& desc) {
  std::vector<std::pair<int64_t, int64_t>> axes;
  const int64_t block = desc.format.block;
  for (int64_t i = 0; i < desc.rank(); i++) {
    if (block > 1 && i == 1) {
      const bool dense = desc.padded_channels() == block || desc.strides[1] == block;
      axes.emplace_back(desc.shape[1], dense ? 1 : -desc.strides[1] * block);
    } else {
      axes.emplace_back(desc.shape[i], desc.strides[i]);
    }
    if (axes.back().first == 1) axes.back().second = 0;
  }
  return axes;
}

bool same_memory(const TensorDesc& a, const TensorDesc& b) {
  if (a.dtype != b.dtype || a.shape != b.shape || a.scale != b.scale || a.zero_point != b.zero_point) return false;
  if (a.has_padding() || b.has_padding()) return a.format == b.format && a.strides == b.strides;
  return walk(a) == walk(b);
}

}  // namespace drystone
