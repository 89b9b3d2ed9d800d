// clone between plain memory and channels_last_3d, which is what contiguous() does to give a tensor another memory format, and instance
// norm to each tensor that is not plain. torch copies these element by element; those of two spatial axes it knows how to transpose.
#include <optional>

#include "kernels/table.h"
#include "torch/memory_format.h"
#include "torch/operators.h"
#include "torch/rows.h"
#include "torch/tensor.h"
#include "torch/thresholds.h"

namespace drystone::torch {

namespace {

// c10::MemoryFormat
enum class MemoryFormat : int8_t { contiguous = 0, preserve = 1, channels_last = 2, channels_last_3d = 3 };

Tensor (*torch_clone)(const Tensor& x, std::optional<MemoryFormat> format);
bool (*is_negative)(const Tensor& x);

bool find_torch() {
  return find(torch_clone, "_ZN2at6native5cloneERKNS_6TensorESt8optionalIN3c1012MemoryFormatEE") &&
         find(is_negative, "_ZN2at6native6is_negERKNS_6TensorE");
}

// An empty handle where torch's kernel serves better.
Handle reordered(const Handle& x, std::optional<MemoryFormat> wanted) {
  if (wanted != MemoryFormat::contiguous && wanted != MemoryFormat::channels_last_3d) return Handle();
  if (x.rank() != 5 || x.numel() < threshold(Threshold::clone_elements) || !kernels()) return Handle();
  const auto sizes = x.sizes();
  const int64_t width = size_of(x.dtype());
  const Format from = format_of(sizes, x.strides());
  const Format to = wanted == MemoryFormat::contiguous ? Format::contiguous : Format::channels_last;
  if (from == to || sizes.data[1] < threshold(Threshold::clone_channels) || (width != 2 && width != 4) ||
      (from == Format::contiguous ? !x.is_contiguous() : !x.is_dense()))
    return Handle();
  if (is_negative(*x)) return Handle();  // torch holds the sign back
  return copied(x, strides_of(dims_of(sizes), to));
}

void kernel(Arguments& arguments) {
  const Handle x = arguments.tensor();
  std::optional<MemoryFormat> wanted;
  if (const auto format = arguments.optional_integer()) wanted = static_cast<MemoryFormat>(*format);
  arguments.answer([&] { return reordered(x, wanted); }, [&] { return torch_clone(*x, wanted); });
}

const Entry<kernel, &torch_clone> clone{"clone", "clone", "(Tensor self, *, MemoryFormat? memory_format=None) -> Tensor", find_torch};

}  // namespace

}  // namespace drystone::torch
