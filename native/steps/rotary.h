// The step of rotary position embeddings.
#pragma once

#include <memory>

#include "core/program.h"
#include "core/tensor.h"

namespace drystone {

// output = x * cosines + (second half of x's last axis negated, then the first half) * sines. Plain f32 or bf16 operands of any
// strides but on the last axis; cosines and sines broadcast along the other axes. Slots: x, cosines, sines, output.
// Throws std::invalid_argument where the operands do not fit together.
std::shared_ptr<Step> make_rotary(const TensorDesc& x, const TensorDesc& cosines, const TensorDesc& sines, const TensorDesc& output);

}  // namespace drystone
