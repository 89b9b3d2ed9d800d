// cat: tensors joined along an axis; also into a tensor that is there.
#include <algorithm>
#include <numeric>

#include "kernels/concatenate.h"
#include "kernels/table.h"
#include "steps/copy.h"
#include "torch/memory_format.h"
#include "torch/operators.h"
#include "torch/rows.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

Tensor (*torch_cat)(const TensorListRef& tensors, int64_t dim);
Tensor& (*torch_cat_out)(const TensorListRef& tensors, int64_t dim, Tensor& out);

bool find_torch() { return find(torch_cat, "_ZN2at3cpu3catERKN3c108IListRefINS_6TensorEEEl"); }

bool find_torch_out() { return find(torch_cat_out, "_ZN2at3cpu8cat_outfERKN3c108IListRefINS_6TensorEEElRS3_"); }

// Whether torch joins them as fast. tensor_at(i): one of at least one.
template <class TensorAt>
bool are_small(size_t count, const TensorAt& tensor_at) {
  double elements = 0;  // of expanded tensors, beyond 64 bits
  for (size_t i = 0; i < count; ++i) elements += static_cast<double>(tensor_at(i).numel());
  return elements * size_of(tensor_at(0).dtype()) < static_cast<double>(threshold(Threshold::cat_bytes));
}

// A list of tensors that this kernel joins: all of one dtype, rank and shape but for the axis, none of them empty.
class Joined {
 public:
  Joined(const std::vector<Handle>& tensors, int64_t dim) {
    if (!kernels() || tensors.empty() || are_small(tensors.size(), [&](size_t i) -> const Handle& { return tensors[i]; })) return;
    dtype_ = tensors[0].dtype();
    width_ = size_of(dtype_);
    const auto first = tensors[0].sizes();
    const auto rank = static_cast<int64_t>(first.size);
    if (!width_ || dim < -rank || dim >= rank) return;
    axis_ = dim < 0 ? dim + rank : dim;
    sizes.assign(first.data, first.data + rank);
    sizes[axis_] = 0;
    format_ = format_of(first, tensors[0].strides());
    shapes_.reserve(tensors.size());
    for (const Handle& tensor : tensors) {
      const auto own = tensor.sizes(), strides = tensor.strides();
      if (static_cast<int64_t>(own.size) != rank || tensor.dtype() != dtype_) return;
      for (int64_t i = 0; i < rank; ++i)
        if (own.data[i] == 0 || (i != axis_ && own.data[i] != sizes[i])) return;
      if (format_ != Format::contiguous && format_of(own, strides) != format_) format_ = Format::contiguous;
      if (__builtin_add_overflow(sizes[axis_], own.data[axis_], &sizes[axis_])) return;
      shapes_.push_back({own.data, strides.data, static_cast<const char*>(tensor.data())});
    }
    serves = true;
  }

  bool serves = false;
  std::vector<int64_t> sizes;  // of the result

  Handle result() const {
    Handle made = Handle::empty(dtype_, sizes, strides_of(sizes, format_));
    return fill(made, order_of(sizes.size(), format_)) ? std::move(made) : Handle();
  }

  // False where torch is to say what is wrong with `out`, or to resize it, or its elements lie in no order of ours.
  bool fill_existing(const Handle& out) const {
    const auto own = out.sizes(), strides = out.strides();
    if (out.dtype() != dtype_ || own.size != sizes.size() || !std::equal(sizes.begin(), sizes.end(), own.data)) return false;
    const char* begin = static_cast<const char*>(out.data());
    const char* end = begin + width_ * out.numel();
    for (const Shape& shape : shapes_)
      if (shape.data < end && begin < shape.data + width_ * extent(shape)) return false;
    for (Format format : {Format::contiguous, Format::channels_last}) {
      if (format == Format::channels_last && own.size != 4 && own.size != 5) continue;
      const std::vector<int64_t> dense = strides_of(sizes, format);
      bool same = true;
      for (size_t i = 0; i < own.size; ++i) same = same && (own.data[i] == 1 || strides.data[i] == dense[i]);
      if (same) return fill(out, order_of(own.size, format));
    }
    return false;
  }

 private:
  struct Shape {
    const int64_t *sizes, *strides;
    const char* data;
  };

  int64_t extent(const Shape& shape) const {
    int64_t last = 0;
    for (size_t i = 0; i < sizes.size(); ++i) last += (shape.sizes[i] - 1) * shape.strides[i];
    return last + 1;
  }

  // The tensor as runs at one distance, if its axes lie so: from `axis_` inwards together, and the outer ones as one axis.
  bool as_part(const Shape& shape, const std::vector<int>& order, ConcatenatePart& part) const {
    int64_t together = 1;
    size_t i = order.size();
    while (true) {
      const int axis = order[--i];
      if (shape.sizes[axis] != 1 && shape.strides[axis] != together) return false;
      together *= shape.sizes[axis];
      if (axis == axis_) break;
    }
    int64_t pitch = 0, next = 0;  // the pitch is not known before an axis of more than one
    while (i-- > 0) {
      const int axis = order[i];
      if (shape.sizes[axis] == 1) continue;
      if (next && shape.strides[axis] != next) return false;
      if (!next) pitch = shape.strides[axis];
      next = shape.strides[axis] * shape.sizes[axis];
    }
    part = {shape.data, together * width_, pitch * width_, 0};
    return true;
  }

  // Writes the elements, which lie in the result in the order of its axes, outermost first.
  bool fill(const Handle& result, const std::vector<int>& order) const {
    const int64_t bytes = width_ * result.numel();
    const int threads = threads_for_bytes(bytes);
    std::vector<ConcatenatePart> parts(shapes_.size());
    int64_t row_bytes = 0;
    for (size_t i = 0; i < shapes_.size(); ++i) {
      if (!as_part(shapes_[i], order, parts[i])) return fill_strided(result, threads);
      parts[i].offset = row_bytes;
      row_bytes += parts[i].run;
    }
    kernels()->concatenate({.output = static_cast<char*>(result.data()),
                            .rows = bytes / row_bytes,
                            .row_bytes = row_bytes,
                            .parts = parts.data(),
                            .count = static_cast<int64_t>(parts.size()),
                            .stream = bytes >= threshold(Threshold::streamed_bytes),
                            .threads = threads});
    return true;
  }

  bool fill_strided(const Handle& result, int threads) const {
    if (static_cast<int64_t>(shapes_.size()) > threshold(Threshold::cat_strided_tensors)) return false;
    const auto strides = result.strides();
    auto* output = static_cast<char*>(result.data());
    for (const Shape& shape : shapes_) {
      std::vector<CopyDim> dims;
      for (size_t i = 0; i < sizes.size(); ++i) dims.push_back({shape.sizes[i], shape.strides[i], strides.data[i], nullptr});
      copy_elements(*dtype_of(dtype_), shape.data, output, std::move(dims), threads);
      output += shape.sizes[axis_] * strides.data[axis_] * width_;
    }
    return true;
  }

  std::vector<Shape> shapes_;
  ScalarType dtype_{};
  int64_t width_ = 0, axis_ = 0;
  Format format_ = Format::contiguous;
};

std::vector<Tensor> borrowed(const std::vector<Handle>& tensors) {
  std::vector<Tensor> list;
  list.reserve(tensors.size());
  for (const Handle& tensor : tensors) list.push_back(*tensor);
  return list;
}

void kernel(Arguments& arguments) {
  const std::vector<Handle> tensors = arguments.tensors();
  const int64_t dim = arguments.integer();
  arguments.answer(
      [&] {
        const Joined joined(tensors, dim);
        return joined.serves ? joined.result() : Handle();
      },
      [&] {
        const std::vector<Tensor> list = borrowed(tensors);
        return torch_cat({{list.data(), list.size()}}, dim);
      });
}

void kernel_out(Arguments& arguments) {
  const std::vector<Handle> tensors = arguments.tensors();
  const int64_t dim = arguments.integer();
  Handle out = arguments.tensor();
  arguments.answer_into(
      out,
      [&] {
        const Joined joined(tensors, dim);
        return joined.serves && joined.fill_existing(out);
      },
      [&] {
        const std::vector<Tensor> list = borrowed(tensors);
        Tensor same = *out;
        torch_cat_out({{list.data(), list.size()}}, dim, same);
      });
}

constexpr auto declines = [](const TensorListRef& list, const auto&...) {
  const auto [tensors, count] = list.tensors;
  return count == 0 || are_small(count, [&](size_t i) { return Handle::borrowed(tensors[i]); });
};

// dim has no default: torch leaves defaults out of what the gradient of a list is compared with.
const Entry<kernel, &torch_cat, declines> cat{"cat", "cat", "(Tensor[] tensors, int dim) -> Tensor", find_torch};
const Entry<kernel_out, &torch_cat_out, declines> cat_out{"cat", "cat.out",
                                                          "(Tensor[] tensors, int dim=0, *, Tensor(a!) out) -> Tensor(a!)", find_torch_out};

}  // namespace

}  // namespace drystone::torch
