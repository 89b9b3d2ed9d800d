// Permute, slice, pad, expand, concatenate (into a strided output), and reorder between formats, all as one step.
#pragma once

#include <memory>
#include <vector>

#include "core/program.h"
#include "core/tensor.h"
#include "kernels/copy.h"

namespace drystone {

// output[o0, o1, ...] = input[...], where output axis i reads input axis axes[i] at index tables[i][o_i].
//   axes[i] = -1: the output does not move in the input along this axis. Input axes that no output axis reads have size 1.
//   tables[i] empty: the identity. An index of -1 writes `value` (converted to the output's dtype).
// Any formats and strides. Equal dtypes, or float32 and bfloat16. The channels that pad a blocked output become zero.
// Slots: input, output; they must not overlap. Throws std::invalid_argument for what does not fit together.
std::shared_ptr<Step> make_copy(const TensorDesc& input, const TensorDesc& output, const std::vector<int64_t>& axes,
                                const std::vector<Dims>& tables, double value);

// The loop nest over `dims`, as they lie in the output, those that run on joined, and with the inner loops that suit the kernel best.
// `fills`: a value is written, and nothing read.
CopyBox make_box(std::vector<CopyDim> dims, bool fills);

}  // namespace drystone
