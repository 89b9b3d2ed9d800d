#include "core/tensor.h"

#include <numeric>
#include <stdexcept>
#include <utility>

namespace drystone {

const char* name_of(Format format) {
  static const char* names[] = {"plain", "channels_last", "blocked16", "blocked8"};
  return names[static_cast<int>(format)];
}

int64_t block_of(Format format) { return format == Format::blocked16 ? 16 : format == Format::blocked8 ? 8 : 1; }

static int64_t multiply(int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw std::invalid_argument("tensor size overflows 64 bits");
  return product;
}

TensorDesc TensorDesc::dense(DType dtype, Format format, Dims shape) {
  TensorDesc desc{dtype, format, std::move(shape), {}};
  const int64_t rank = desc.rank();
  if (format != Format::plain && (rank < 3 || rank > 5))
    throw std::invalid_argument(std::string(name_of(format)) + " needs rank 3 to 5, not " + std::to_string(rank));
  for (int64_t size : desc.shape)
    if (size < 0) throw std::invalid_argument("negative size in a shape");
  desc.strides.assign(rank, 1);
  std::vector<int64_t> order(rank);
  std::iota(order.begin(), order.end(), 0);
  int64_t step = 1;
  if (format == Format::channels_last) {
    order.erase(order.begin() + 1);
    order.push_back(1);
  } else if (format != Format::plain) {
    step = block_of(format);
  }
  for (int64_t i = rank - 1; i >= 0; i--) {
    const int64_t axis = order[i];
    desc.strides[axis] = step;
    const bool blocks = axis == 1 && block_of(format) > 1;
    const int64_t size = blocks ? desc.padded_channels() / block_of(format) : desc.shape[axis];
    step = multiply(step, size > 0 ? size : 1);
  }
  multiply(step, size_of(dtype));
  return desc;
}

int64_t TensorDesc::numel() const {
  int64_t count = 1;
  for (int64_t size : shape) count = multiply(count, size);
  return count;
}

int64_t TensorDesc::padded_channels() const {
  const int64_t block = block_of(format);
  if (block == 1) return rank() > 1 ? shape[1] : 1;
  return (shape[1] + block - 1) / block * block;
}

Physical physical(const TensorDesc& desc) {
  Physical p;
  const int64_t rank = desc.rank(), block = block_of(desc.format);
  for (int64_t i = 0; i < rank; i++) {
    if (desc.format == Format::channels_last && i == 1) continue;
    p.sizes.push_back(block > 1 && i == 1 ? desc.padded_channels() / block : desc.shape[i]);
    p.strides.push_back(desc.strides[i]);
  }
  if (desc.format == Format::channels_last) {
    p.sizes.push_back(desc.shape[1]);
    p.strides.push_back(desc.strides[1]);
  }
  if (block > 1) {
    p.sizes.push_back(block);
    p.strides.push_back(1);
  }
  return p;
}

int64_t TensorDesc::bytes() const {
  if (numel() == 0) return 0;
  const Physical p = physical(*this);
  int64_t last = 0;
  for (size_t i = 0; i < p.sizes.size(); i++) last += multiply(p.sizes[i] - 1, p.strides[i]);
  return multiply(last + 1, size_of(dtype));
}

bool TensorDesc::is_dense() const { return strides == dense(dtype, format, shape).strides; }

bool TensorDesc::has_padding() const { return block_of(format) > 1 && padded_channels() != shape[1]; }

std::string TensorDesc::str() const {
  std::string text = std::string(name_of(dtype)) + " " + name_of(format) + " [";
  for (size_t i = 0; i < shape.size(); i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]" + (is_dense() ? "" : " strided");
}

void require_float(DType dtype, const std::string& name) {
  if (!is_float(dtype)) throw std::invalid_argument(name + " is " + name_of(dtype) + "; f32 and bf16 are supported");
}

// Size and stride of each logical axis; of channels in blocks, the axis they form where they follow each other densely.
static std::vector<std::pair<int64_t, int64_t>> walk(const TensorDesc& desc) {
  std::vector<std::pair<int64_t, int64_t>> axes;
  const int64_t block = block_of(desc.format);
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
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  if (a.has_padding() || b.has_padding()) return a.format == b.format && a.strides == b.strides;
  return walk(a) == walk(b);
}

}  // namespace drystone
