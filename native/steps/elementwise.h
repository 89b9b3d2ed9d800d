// The step of one elementwise operation on elements of any dtype.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/program.h"
#include "core/tensor.h"

namespace drystone {

// Plain operands that broadcast to the output. Kinds: convert; invert, bit_and, bit_or, bit_xor (integers, bool); add, sub, mul,
// floor_div, remainder, maximum, minimum (integers); eq, ne, lt, le, gt, ge (output bool); where (bool, two of the output's dtype). The
// operands have one dtype. Slots: the inputs, the output. Throws std::invalid_argument for anything else.
std::shared_ptr<Step> make_elementwise(const std::vector<TensorDesc>& inputs, const TensorDesc& output, const std::string& kind);

}  // namespace drystone
