// The loop nests of the copy kernel.
#pragma once

#include <vector>

#include "core/tensor.h"
#include "kernels/copy.h"

namespace drystone {

// The loop nest over `dims`, as they lie in the output, those that run on joined, and with the inner loops that suit the kernel best.
// `fills`: a value is written, and nothing read. Its offsets are those that the order of its loops begins at.
CopyBox make_box(std::vector<CopyDim> dims, bool fills);

}  // namespace drystone
