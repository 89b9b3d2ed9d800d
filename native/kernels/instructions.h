// One pointwise instruction on a run of float32, for kernels that do more to a block than compute it.
#pragma once

#include "kernels/pointwise.h"

namespace drystone::DRYSTONE_ISA {

// y[i] = op(a[i], b[i]); y may be a or b, b is not read where the instruction has one operand.
void execute(const PointwiseInstruction& op, float* y, const float* a, const float* b, int64_t count);

}  // namespace drystone::DRYSTONE_ISA
