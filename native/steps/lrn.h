#pragma once

#include <memory>

#include "core/program.h"
#include "core/tensor.h"

namespace drystone {

// torch.nn.functional.local_response_norm(x, size, alpha, beta, k): float32 and bfloat16, plain and channels_last, the same on both
// sides. Slots: input, output; they must not overlap. Throws std::invalid_argument for what does not fit together.
std::shared_ptr<Step> make_lrn(const TensorDesc& input, const TensorDesc& output, int64_t size, double alpha, double beta, double k);

}  // namespace drystone
