// torch's memory formats, as it reads them off sizes and strides.
#pragma once

#include <vector>

#include "torch/libtorch.h"

namespace drystone::torch {

enum class Format { contiguous, channels_last };  // the latter with two spatial axes or three

// What torch suggests for a result like this tensor: channels_last where the strides are those, ambiguous ones not.
Format format_of(ArrayRef<int64_t> sizes, ArrayRef<int64_t> strides);

// The axes of a tensor of that rank, outermost first.
std::vector<int> order_of(size_t rank, Format format);

// Of dense memory, in elements.
std::vector<int64_t> strides_of(const std::vector<int64_t>& sizes, Format format);

}  // namespace drystone::torch
