// Copies without a step of their own.
#pragma once

#include <vector>

#include "core/tensor.h"
#include "kernels/copy.h"

namespace drystone {

// Copies one loop nest of elements at once. `dims` are in any order; strides of the output are positive. Throws std::invalid_argument for
// more dims than the kernel takes.
void copy_elements(DType dtype, const void* input, void* output, std::vector<CopyDim> dims, int threads);

}  // namespace drystone
