#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "core/program.h"
#include "core/tensor.h"

namespace drystone {

using Window = std::array<int64_t, 3>;  // start, stop, step: input positions, inside of the input

// Max or average pooling ("max", "avg") of float32 or bfloat16, in any format, the same on both sides. windows: for each spatial
// axis, for each output index, what it reads. An average is the sum over the product of divisors[axis][index], or over
// divisor_override if that is > 0; one of nothing is 0. Slots: input, output; they must not overlap.
// Throws std::invalid_argument for what does not fit together.
std::shared_ptr<Step> make_pool(const TensorDesc& input, const TensorDesc& output, const std::string& kind,
                                const std::vector<std::vector<Window>>& windows, const std::vector<std::vector<int64_t>>& divisors,
                                int64_t divisor_override);

}  // namespace drystone
