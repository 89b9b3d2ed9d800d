// The step of running sums, extremes and their places, and reductions of integers and truth values.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/program.h"
#include "core/tensor.h"

namespace drystone {

// Along the neighbouring axes dims of dense plain memory. cumsum (f32, bf16, s64; one axis), sum (s64), any, all (bool), amax, amin, and
// argmax, argmin (output s64). Slots: input, output.
std::shared_ptr<Step> make_fold(const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Dims& dims);

}  // namespace drystone
